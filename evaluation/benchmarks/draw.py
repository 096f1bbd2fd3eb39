"""Draws a benchmark's images with a policy, a prompt at a time; an image that is there is not drawn again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from varl.evaluation.benchmarks.judge import Picture
from varl.policy.base import Policy, SamplingParams
from varl.policy.sampling import mix


def draw(
    policy: Policy,
    pictures: Sequence[Picture],
    seeds: dict[Path, int],
    params: SamplingParams,
    progress: Callable[[int], None],
) -> None:
    """Write what is missing of ``pictures`` as PNG.

    seeds: by folder; an image is a function of its seed, the index of its prompt and the sampler, up to rounding.
    progress is told how many images are there.
    """
    done = 0
    for _, group in groupby(pictures, key=lambda picture: picture.index):
        wanted = list(group)
        missing = [picture for picture in wanted if not picture.path.exists()]
        if missing:
            state = policy.prefill(missing[0].item.prompt, guided=params.cfg > 0)
            numbers = [mix(seeds[picture.folder], picture.index, 0) for picture in missing]
            images = policy.decode(policy.sample(state, len(policy.grids), numbers, params)[1].tokens)
            for picture, image in zip(missing, images, strict=True):
                _save(image, picture.path)
        done += len(wanted)
        progress(done)


def _save(image: npt.NDArray[np.uint8], path: Path) -> None:
    """Whole or not at all: a damaged image would not be drawn again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(image).save(part, "PNG")
    part.replace(path)
