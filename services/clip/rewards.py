"""CLIPScore, PickScore and the aesthetic score, as rewards through ``varl.reward``.

``varl serve clipscore`` and the like serve them; ``serve = "varl.services.clip.rewards:PickScore"`` in a recipe trains
on one. Which weights: the environment, or a subclass with another ``source``. Texts are cut to CLIP's 77 tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from PIL import Image

from varl.reward import ErrorCode, Reward, Sample, SampleError, Score
from varl.services.clip.aesthetic import AestheticHead
from varl.services.clip.model import Clip

PREFIX, SCALE = "A photo depicts ", 2.5  # of CLIPScore


class ClipReward(Reward):
    """What these rewards share: a CLIP model, from VARL_CLIP_MODEL where that is set, and samples with a prompt."""

    source: ClassVar[str]  # a folder, or a name of the hub

    def load(self, device: str) -> None:
        """Load the model; raises OSError where there is none."""
        self.clip = Clip(os.environ.get("VARL_CLIP_MODEL") or self.source, device)
        self.revision = self.clip.revision

    def score(self, samples: Sequence[Sample]) -> Sequence[Score | SampleError]:
        """A score for each sample with a prompt."""
        asked = [sample for sample in samples if sample.prompt.strip()]
        scores = iter(self.scores(asked) if asked else ())
        return [next(scores) if sample.prompt.strip() else _BLANK for sample in samples]

    def scores(self, samples: Sequence[Sample]) -> list[Score]:
        """A score for each sample, whose prompts are not blank."""
        raise NotImplementedError

    def cosines(self, samples: Sequence[Sample], prefix: str = "") -> list[float]:
        """Of each image's vector with that of its own prompt; in [-1, 1]."""
        images, texts = self.clip.embed(_images(samples), [prefix + sample.prompt for sample in samples])
        found: list[float] = (images * texts).sum(1).tolist()
        return found


class ClipScore(ClipReward):
    """CLIPScore (arXiv 2104.08718): 2.5 max(cos, 0) of "A photo depicts PROMPT", in [0, 2.5]."""

    name = "clipscore"
    source = "openai/clip-vit-large-patch14"

    def scores(self, samples: Sequence[Sample]) -> list[Score]:
        """See the class."""
        return [Score(clip_score(cosine), {"cosine": cosine}) for cosine in self.cosines(samples, PREFIX)]


class PickScore(ClipReward):
    """PickScore (arXiv 2305.01569): the logit of a CLIP tuned on people's choices; most images have 18 to 24."""

    name = "pickscore"
    source = "yuvalkirstain/PickScore_v1"

    def scores(self, samples: Sequence[Sample]) -> list[Score]:
        """See the class."""
        return [Score(self.clip.scale * cosine, {"cosine": cosine}) for cosine in self.cosines(samples)]


class Aesthetic(ClipReward):
    """LAION's aesthetic score, about 1 to 10, of the image alone; its head is the file VARL_AESTHETIC_HEAD."""

    name = "aesthetic"
    source = "openai/clip-vit-large-patch14"
    head: ClassVar[str] = ""  # the published file is sac+logos+ava1-l14-linearMSE.pth

    def load(self, device: str) -> None:
        """Load model and head; raises OSError or ValueError where one is missing or does not fit."""
        super().load(device)
        path = os.environ.get("VARL_AESTHETIC_HEAD") or self.head
        if not path:
            raise ValueError("VARL_AESTHETIC_HEAD must name the head's file, .pth or .safetensors")
        self._head = AestheticHead(path, self.clip.width, device)

    def score(self, samples: Sequence[Sample]) -> Sequence[Score | SampleError]:
        """A score for each sample; prompts are not looked at."""
        vectors, _ = self.clip.embed(_images(samples), [""])
        return [Score(value) for value in self._head.score(vectors)]


_BLANK = SampleError(ErrorCode.INVALID_FIELD, "prompt: is blank, and this reward judges an image by its prompt")


def clip_score(cosine: float) -> float:
    """Section 3 of the paper, w = 2.5."""
    return SCALE * max(cosine, 0.0)


def _images(samples: Sequence[Sample]) -> list[Image.Image]:
    return [Image.fromarray(sample.pixels) for sample in samples]
