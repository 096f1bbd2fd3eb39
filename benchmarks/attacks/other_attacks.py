"""Attackers that need more than bytes: over gRPC, by pictures, by words."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from base64 import b64encode
from contextlib import suppress
from functools import partial

import grpc
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.attacks.http_attacks import Attack, again, body_of, picture
from benchmarks.serving.processes import Server


def _encode(image: Image.Image, kind: str, **options: bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def many_scans() -> bytes:
    """A progressive JPEG of 2048 x 2048 pixels and 5000 scans, 130 KB."""
    data = _encode(Image.new("RGB", (2048, 2048), (200, 30, 30)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 5000 + data[-2:]


def many_segments() -> bytes:
    """A JPEG with 700,000 empty EXIF segments, 7 MB."""
    data = _encode(Image.new("RGB", (64, 64)), "JPEG")
    return data[:2] + b"\xff\xe1\x00\x08Exif\0\0" * 700_000 + data[2:]


def many_chunks() -> bytes:
    """A PNG with 600,000 empty chunks, 7 MB."""
    data = _encode(Image.new("RGB", (64, 64)), "PNG")
    chunk = struct.pack(">I", 0) + b"teXt" + struct.pack(">I", zlib.crc32(b"teXt"))
    return data[:33] + chunk * 600_000 + data[33:]


def fill() -> bytes:
    """A JPEG with 7 MB of fill between two segments."""
    data = _encode(Image.new("RGB", (64, 64)), "JPEG")
    return data[:2] + b"\xff" * 7_000_000 + data[2:]


def letters(side: int = 2048) -> bytes:
    """A picture full of single letters."""
    image = Image.new("RGB", (side, side), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for top in range(0, side, 14):
        draw.text((0, top), "i " * (side // 7), fill="black", font=font)
    return _encode(image, "PNG")


def many_words() -> bytes:
    """A picture of a few hundred words."""
    rng = np.random.default_rng(0)
    image = Image.new("RGB", (1024, 1024), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(16)
    for top in range(0, 1024, 24):
        words = ["".join(chr(97 + int(n)) for n in rng.integers(0, 26, 4)) for _ in range(22)]
        draw.text((4, top), " ".join(words), fill="black", font=font)
    return _encode(image, "PNG")


def targets(image: bytes, words: int) -> bytes:
    """A request for so many words, of two letters each."""
    sample = {"id": "0", "prompt": "'" + "ab " * (words - 1) + "ab'", "image": b64encode(image).decode()}
    return body_of({"samples": [sample]})


async def _grpc(server: Server, data: bytes) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary("/varl.v1.RewardService/Score", bytes, bytes)

        async def client() -> None:
            while True:
                with suppress(grpc.aio.AioRpcError):
                    await call(data)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(client())


async def empty_samples(server: Server) -> None:
    """A million empty samples over gRPC, again and again."""
    await _grpc(server, b"\x0a\x00" * 1_000_000)


def pictures(*images: bytes) -> Attack:
    """Two clients for each picture, which send it over and over."""
    attacks = [again(partial(_request, picture(image)), 2) for image in images]

    async def all_at_once(server: Server) -> None:
        await asyncio.gather(*(attack(server) for attack in attacks))

    return all_at_once


def _request(data: bytes) -> tuple[bytes]:
    return (data,)
