"""Why a message is no valid job or trajectory, as a value: a reason to count by and a detail that names the field."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from google.protobuf.message import Message
from PIL import Image

MAX_REGIONS = 4096  # of one image
MAX_CORNERS = 64  # of one region
MAX_PIXELS = 2**24  # of one image


class Reason(StrEnum):
    """What kind of fault a message has; dead-lettered messages are counted by it."""

    NOT_A_MESSAGE = "not_a_message"
    TOO_LARGE = "too_large"
    SCHEMA = "schema"  # of an older or newer version of varl
    JOB = "job"
    OUTCOME = "outcome"
    GRIDS = "grids"
    CANDIDATES = "candidates"
    TOKENS = "tokens"
    LOG_PROBS = "log_probs"
    REWARDS = "rewards"
    REGIONS = "regions"
    IMAGE = "image"
    APPEARANCE = "appearance"


@dataclass(frozen=True)
class Problem:
    """One fault; the detail begins with the field."""

    reason: Reason
    detail: str

    def within(self, prefix: str) -> Problem:
        """The same fault seen from the message that holds this one as ``prefix``."""
        return Problem(self.reason, f"{prefix}.{self.detail}")


class CodecError(ValueError):
    """The bytes or the message are not a valid job or trajectory.

    ``message`` is what could be parsed (it names the job even where the job is invalid), None where nothing could.
    """

    def __init__(self, problem: Problem, message: Message | None = None) -> None:
        super().__init__(problem.detail)
        self.reason = problem.reason
        self.detail = problem.detail
        self.message = message


def polygon_problem(polygon: Sequence[float]) -> str | None:
    """What is wrong with a polygon x0 y0 x1 y1 … in pixels, or None."""
    if len(polygon) % 2 or not 6 <= len(polygon) <= 2 * MAX_CORNERS:
        return f"polygon must hold 3..{MAX_CORNERS} corners of two numbers each, got {len(polygon)} numbers"
    if not all(map(math.isfinite, polygon)):
        return "polygon must be finite"
    return None


def png_problem(data: bytes, height: int, width: int) -> str | None:
    """What is wrong with a PNG that must show an RGB image of height x width pixels, or None.

    Decodes it only where its size fits.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (width, height) or image.mode != "RGB":
                given = f"{image.mode} of {image.height} x {image.width}"
                return f"image must be an RGB image of {height} x {width} pixels (height x width), got {given}"
            image.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        return f"image must be a PNG: {error}"
    return None
