"""What the servers are sent, and how the plain ones among them decode it."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from varl.tiny.render import render
from varl.tiny.words import all_words


def encode(pixels: Image.Image) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG")
    return buffer.getvalue()


def decode(data: bytes) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3] without a check of any kind."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


TINY = encode(Image.new("1", (8, 8)))  # the smallest picture that the services take


def sample_body(image: bytes, prompt: str = "a") -> bytes:
    """One sample for POST /v1/score."""
    return samples_body([(prompt, image)])


def samples_body(sent: Sequence[tuple[str, bytes]]) -> bytes:
    """Several, with their places for ids."""
    samples = [
        {"id": str(index), "prompt": prompt, "image": b64encode(image).decode()}
        for index, (prompt, image) in enumerate(sent)
    ]
    return json.dumps({"samples": samples}).encode()


SIDES = (64, 512, 1024)  # pixels: what the tiny policy draws, and what text-to-image models do
FORM_TYPE = "multipart/form-data; boundary=boundary"


def form_body(image: bytes, prompt: str = "a") -> bytes:
    """One sample for POST /v1/score as a form, its image as it is."""
    parts = [("request", json.dumps({"samples": [{"id": "0", "prompt": prompt}]}).encode()), ('0"; filename="0', image)]
    lines = [
        b'--boundary\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), part)
        for name, part in parts
    ]
    return b"".join(lines) + b"--boundary--\r\n"


def peer_body(image: bytes, prompt: str = "a") -> bytes:
    """The same for the other servers; ``image`` b"": the prompt alone."""
    return json.dumps({"prompt": prompt, **({"image": b64encode(image).decode()} if image else {})}).encode()


def pictures(side: int = 64, count: int = 64) -> list[tuple[str, bytes]]:
    """Prompts and square PNG files of one or two rendered words, the same on every call."""
    rng = np.random.default_rng(0)
    drawn = [tuple(map(str, rng.choice(all_words(), 1 + index % 2))) for index in range(count)]
    images = [
        Image.fromarray(render(words, rng).image).resize((side, side), Image.Resampling.BICUBIC) for words in drawn
    ]
    return [
        (f'a sign that says "{" ".join(words)}"', encode(image)) for words, image in zip(drawn, images, strict=True)
    ]
