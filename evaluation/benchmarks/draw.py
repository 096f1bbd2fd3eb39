"""Draws a benchmark's images with a policy, several together; an image that is there is not drawn again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from varl.evaluation.benchmarks.judge import Picture
from varl.policy.base import Policy, SamplerState, SamplingParams, SeveralPrompts
from varl.policy.sampling import mix

T = TypeVar("T")
DECODED = 8  # images that are decoded together, each of which takes more memory than its tokens did


def draw(
    policy: Policy,
    pictures: Sequence[Picture],
    seeds: dict[Path, int],
    params: SamplingParams,
    progress: Callable[[int], None],
    batch: int = 1,
) -> None:
    """Write what is missing of ``pictures`` as PNG.

    seeds: by folder; an image is a function of its seed, the index of its prompt and the sampler, up to rounding.
    progress is told how many images are there. batch: how many are drawn together; of one prompt where the policy
    samples no other ones with it.
    """
    missing = [picture for picture in pictures if not picture.path.exists()]
    done = len(pictures) - len(missing)
    progress(done)
    for together in _together(missing, batch, isinstance(policy, SeveralPrompts)):
        wanted = [picture for prompt in together for picture in prompt]
        numbers = [mix(seeds[picture.folder], picture.index, 0) for picture in wanted]
        state = _prefill(policy, [prompt[0].item.prompt for prompt in together], params.cfg > 0)
        tokens = policy.sample(state, len(policy.grids), numbers, params)[1].tokens
        for some, part in zip(_parts(wanted, DECODED), torch.split(tokens, DECODED), strict=True):
            for picture, image in zip(some, policy.decode(part), strict=True):
                _save(image, picture.path)
        done += len(wanted)
        progress(done)


def _prefill(policy: Policy, prompts: Sequence[str], guided: bool) -> SamplerState:
    if isinstance(policy, SeveralPrompts):
        return policy.prefill_all(prompts, guided)
    return policy.prefill(prompts[0], guided)


def _together(pictures: Sequence[Picture], batch: int, several: bool) -> Iterator[list[list[Picture]]]:
    """What is drawn in one call: pictures by prompt, as many of each, one prompt or ``several``."""
    prompts = [list(found) for _, found in groupby(pictures, key=lambda picture: picture.index)]
    parts = [part for prompt in prompts for part in _parts(prompt, batch)]
    for count, alike in groupby(parts, key=len):
        yield from _parts(list(alike), batch // count if several else 1)


def _parts(found: list[T], size: int) -> Iterator[list[T]]:
    return (found[first : first + size] for first in range(0, len(found), size))


def _save(image: npt.NDArray[np.uint8], path: Path) -> None:
    """Whole or not at all: a damaged image would not be drawn again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(image).save(part, "PNG")
    part.replace(path)
