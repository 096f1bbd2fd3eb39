"""Pictures of words, and the OCR service as a subprocess."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tests.support.paths import PYTHONPATH, ROOT
from varl.v1 import reward_pb2

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
ENVIRONMENT = {**os.environ, "PYTHONPATH": PYTHONPATH}


def render(lines: Sequence[str], size: tuple[int, int] = (64, 64), points: int = 15) -> npt.NDArray[np.uint8]:
    """Lines of text, black on white, evenly spread over an image of (width, height)."""
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        place = (size[0] / 2, size[1] * (index + 0.5) / len(lines))
        draw.text(place, line, fill="black", font=ImageFont.truetype(str(FONT), points), anchor="mm")
    return np.asarray(picture)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def json_sample(name: str, prompt: str, image: bytes, target_words: Sequence[str] | None = None) -> dict[str, Any]:
    sample: dict[str, Any] = {"id": name, "prompt": prompt, "image": base64.b64encode(image).decode()}
    return sample if target_words is None else {**sample, "target_words": list(target_words)}


def grpc_sample(name: str, prompt: str, image: bytes, target_words: Sequence[str] = ()) -> reward_pb2.Sample:
    return reward_pb2.Sample(id=name, prompt=prompt, image=image, target_words=target_words)


@dataclass(frozen=True)
class OCRProcess:
    """A running service: where it listens, and its process."""

    http: str
    grpc: str
    process: subprocess.Popen[str]


def spawn(cache: Path, *flags: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "varl.services.ocr",
        "--http-port",
        "0",
        "--grpc-port",
        "0",
        "--model-cache",
        str(cache),
        *flags,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def running(cache: Path, *flags: str) -> Iterator[OCRProcess]:
    """A service that is ready; killed at the end if it still runs."""
    process = spawn(cache, *flags)
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"the service ended with {process.wait()}: {process.communicate()[1]}")
        ready = json.loads(line)
        assert ready.pop("event") == "ready"
        yield OCRProcess(f"http://127.0.0.1:{ready['http_port']}", f"127.0.0.1:{ready['grpc_port']}", process)
    finally:
        process.kill()
        process.communicate()
