"""CLIPScore (arXiv 2104.08718) as CVTG-2K's script computes it: 2.5 max(cos, 0) of "A photo depicts PROMPT"."""

from __future__ import annotations

from collections.abc import Sequence
from html import unescape

from ftfy import fix_text
from PIL import Image

from varl.services.clip.model import MEAN, STD, Clip, preprocess
from varl.services.clip.rewards import PREFIX, ClipScore, clip_score

__all__ = ["DEFAULT_MODEL", "MEAN", "PREFIX", "STD", "ClipScorer", "preprocess"]

DEFAULT_MODEL = ClipScore.source  # the script's ViT-L/14


class ClipScorer:
    """A CLIP model from a folder or the hub, in the format of transformers."""

    def __init__(self, source: str = DEFAULT_MODEL, device: str = "cpu") -> None:
        """Load it.

        Raises:
            OSError: it is neither a folder with a model nor one that the hub gives.
        """
        self._clip, self.name = Clip(source, device), source

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """A score in [0, 2.5] for each image and its prompt, which is cut to CLIP's 77 tokens."""
        vectors, texts = self._clip.embed(images, [_clean(PREFIX + prompt) for prompt in prompts])
        return [clip_score(cosine) for cosine in (vectors * texts).sum(1).tolist()]


def _clean(text: str) -> str:
    """What OpenAI's tokenizer does to a text first and that of transformers does not: ’ becomes ', &amp; becomes &."""
    return unescape(unescape(fix_text(text))).strip()
