"""Sample grids: a row a prompt, captioned with the prompt and the reward of each image."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from varl.trajectories.prompts import PromptSpec
from varl.v1 import trajectory_pb2

TILE, GAP, LINE = 128, 6, 16


def sample_grid(prompts: Sequence[PromptSpec], groups: Mapping[int, trajectory_pb2.Group]) -> Image.Image:
    """One row for each prompt; ``groups`` by row. A row whose group failed says so instead of showing images."""
    columns = max((len(group.candidates) for group in groups.values()), default=1)
    row_height = TILE + 2 * LINE + GAP
    width = max(columns * (TILE + GAP) + GAP, 480)
    sheet = Image.new("RGB", (width, len(prompts) * row_height + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for row, spec in enumerate(prompts):
        top = GAP + row * row_height
        pen.text((GAP, top), spec.prompt, fill="black", font=font)
        if row not in groups:
            pen.text((GAP, top + LINE), "no images: the group failed", fill="red", font=font)
            continue
        for column, candidate in enumerate(groups[row].candidates):
            left, shown = GAP + column * (TILE + GAP), candidate.continuations[0]
            sheet.paste(_tile(shown.image), (left, top + LINE))
            caption = " ".join(f"{name} {value:.2f}" for name, value in sorted(shown.rewards.items()))
            pen.text((left, top + LINE + TILE), caption, fill="gray", font=font)
    return sheet


def save_grid(
    directory: Path, update: int, prompts: Sequence[PromptSpec], groups: Sequence[trajectory_pb2.Group]
) -> None:
    """Write directory/<update>.png."""
    directory.mkdir(parents=True, exist_ok=True)
    sample_grid(prompts, {group.job.group: group for group in groups}).save(directory / f"{update:06d}.png")


def _tile(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        return image.convert("RGB").resize((TILE, TILE), Image.Resampling.NEAREST)
