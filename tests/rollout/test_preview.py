"""Pictures scale by scale over HTTP: what is drawn, whose weights, and that nobody who watches is in the way."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from varl.policy.base import SamplingParams
from varl.policy.generate import generate_by_scale
from varl.policy.nextflow import NextFlowPolicy, build_random
from varl.services.rollout.generation import Limits
from varl.services.rollout.http_app import build_preview_app
from varl.services.rollout.model import ModelThread, Weights
from varl.services.rollout.places import Places
from varl.services.rollout.preview import Frame, Preview, PreviewFailedError, Wish
from varl.services.rollout.service import Model
from varl.services.serving.status import RequestRejectedError

PLAIN = SamplingParams()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and beside it a folder with tuned weights, half of a delta and a file that is none."""
    folder = tmp_path_factory.mktemp("model")
    build_random(0).save(folder)
    (folder / "tuned").mkdir()
    tuned(build_random(0)).save_weights(str(folder / "tuned" / "final.safetensors"))
    (folder / "tuned" / "v2.delta.safetensors").write_bytes(b"")
    (folder / "tuned" / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00not json")
    return folder


def tuned(policy: NextFlowPolicy) -> NextFlowPolicy:
    with torch.no_grad():
        for parameter in policy.module.parameters():
            parameter.mul_(-1)
    return policy


@asynccontextmanager
async def previewing(folder: Path, places: int = 4) -> AsyncIterator[Preview]:
    preview, policy = Preview(PLAIN, Limits(8, 8, 100), Places(places), folder / "tuned"), build_random(0)
    thread = ModelThread(1)
    preview.model = Model(policy, Weights(policy, folder / "policy.safetensors", folder / "cache"), thread)
    yield preview
    thread.close()


@asynccontextmanager
async def asking(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with previewing(folder) as preview:
        transport = httpx.ASGITransport(build_preview_app(preview, "tiny"))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
            yield http


def pixels(png: bytes) -> Any:  # noqa: ANN401
    return np.asarray(Image.open(io.BytesIO(png)))


def expected(policy: NextFlowPolicy, seed: int = 3, params: SamplingParams = PLAIN) -> list[Any]:
    return [step.pixels[0] for step in generate_by_scale(policy, "a sign", 1, seed, params)]


async def frames(preview: Preview, **changes: Any) -> list[Frame]:  # noqa: ANN401
    wish = replace(Wish("a sign", 3, PLAIN), **changes)
    return [frame async for frame in preview.draw(wish)]


async def test_each_line_is_the_picture_after_a_scale(folder: Path) -> None:
    async with asking(folder) as http:
        info = (await http.get("/v1/info")).json()
        answer = await http.post("/v1/generate", json={"prompt": "a sign", "seed": 3, "temperature": 0.5})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    wanted = expected(build_random(0), params=SamplingParams(temperature=0.5))
    assert [(line["scale"], line["scales"]) for line in lines] == [(i + 1, len(wanted)) for i in range(len(wanted))]
    for line, picture in zip(lines, wanted, strict=True):
        assert np.array_equal(pixels(base64.b64decode(line["image"])), picture)
    assert info["scales"] == [list(grid) for grid in build_random(0).grids]
    assert (info["model"], info["height"], info["width"], info["temperature"]) == ("tiny", 64, 64, 1.0)
    assert info["weights"] == ["base", "broken", "final"]


async def test_weights_are_those_of_the_name_and_the_model_gets_its_own_back(folder: Path) -> None:
    async with previewing(folder) as preview:
        weights = preview.loaded().weights
        assert weights.use(7, str(folder / "tuned" / "final.safetensors")) is None  # of the run
        held = weights.source
        assert list(preview.weights()) == ["base", "current", "broken", "final"]
        drawn = {name: await frames(preview, weights=name) for name in ("base", "final", "current")}
        assert weights.source == held and weights.loaded
    base, other = expected(build_random(0))[-1], expected(tuned(build_random(0)))[-1]
    assert not np.array_equal(base, other)
    found = {name: pixels(some[-1].png) for name, some in drawn.items()}
    assert np.array_equal(found["base"], base)
    assert np.array_equal(found["final"], other) and np.array_equal(found["current"], other)


async def test_weights_that_cannot_be_read_are_told_and_leave_the_model_whole(folder: Path) -> None:
    async with previewing(folder) as preview:
        with pytest.raises(PreviewFailedError, match=r"broken\.safetensors"):
            await frames(preview, weights="broken")
        assert np.array_equal(pixels((await frames(preview))[-1].png), expected(build_random(0))[-1])


@pytest.mark.parametrize("name", ["../policy", "/etc/passwd", "tuned/final", "v2.delta", "current", ""])
async def test_no_other_file_is_read_whatever_the_name(folder: Path, name: str) -> None:
    async with asking(folder) as http:
        answer = await http.post("/v1/generate", json={"prompt": "a sign", "weights": name})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "weights")


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", ""), ("prompt", "x" * 101), ("temperature", 0), ("seed", -1), ("seed", 2**63), ("other", 1)],
)
async def test_a_bad_field_is_named(folder: Path, field: str, value: object) -> None:
    async with asking(folder) as http:
        answer = await http.post("/v1/generate", json={"prompt": "a sign", field: value})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_who_does_not_read_keeps_nobody_waiting(folder: Path) -> None:
    async with previewing(folder) as preview:
        idle = preview.draw(Wish("a sign", 0, PLAIN))
        await anext(idle)  # and no further
        assert len(await frames(preview)) == len(build_random(0).grids)
        await idle.aclose()


async def test_places_are_bounded_and_freed_also_where_nobody_ever_reads(folder: Path) -> None:
    async with previewing(folder, places=1) as preview:
        unread = preview.draw(Wish("a sign", 0, PLAIN))
        with pytest.raises(RequestRejectedError, match="waiting"):
            preview.draw(Wish("a sign", 0, PLAIN))
        while True:  # until it is drawn
            try:
                assert await frames(preview)
                break
            except RequestRejectedError:
                await asyncio.sleep(0.01)
        await unread.aclose()


async def test_before_the_policy_is_loaded_a_retry_is_asked_for(folder: Path) -> None:
    preview = Preview(PLAIN, Limits(8, 8, 100), Places(1), None)
    transport = httpx.ASGITransport(build_preview_app(preview, "tiny"))
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        for answer in (await http.get("/v1/info"), await http.post("/v1/generate", json={"prompt": "a sign"})):
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
