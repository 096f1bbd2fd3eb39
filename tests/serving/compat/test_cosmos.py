"""cosmos-rl's client: enqueue a line of JSON and an array, pull until 200; and what the service keeps meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.compat_rig import PATIENCE, Rig, ToyScorer, overloaded, serving
from varl.services.serving.compat.cosmos_jobs import Jobs, Results
from varl.services.serving.compat.npy import png_files, read_images
from varl.services.serving.status import RejectionCode, RequestRejectedError


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with serving(ToyScorer("toy"), ToyScorer("other")) as found:
        yield found


def saved(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def greys(*levels: int) -> npt.NDArray[np.uint8]:
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in levels])


def post_job(rig: Rig, array: bytes, prompts: list[str], *rewards: str, **extra: object) -> httpx.Response:
    head = {"media_type": "image", "prompts": prompts, "reward_fn": dict.fromkeys(rewards, 1.0), **extra}
    headers = {"Content-Type": "application/octet-stream", "Authorization": "Bearer token"}
    return httpx.post(
        f"{rig.url}/compat/cosmos_rl/api/reward/enqueue",
        content=json.dumps(head).encode() + b"\n" + array,
        headers=headers,
    )


def pull(rig: Rig, name: str, reward: str | None) -> dict[str, Any]:
    """Polls for ever on anything but 200, as the trainer does; its second of sleep is shortened."""
    form = {"uuid": name} if reward is None else {"uuid": name, "type": reward}
    for _ in range(int(PATIENCE / 0.02)):
        answer = httpx.post(f"{rig.url}/compat/cosmos_rl/api/reward/pull", data=form, timeout=10)
        if answer.status_code == 200:
            body: dict[str, Any] = answer.json()
            return body
        assert answer.status_code == 400
        assert "message" in answer.json()
        time.sleep(0.02)
    raise AssertionError("never done")


def test_ping_enqueue_pull(rig: Rig) -> None:
    ping = httpx.post(f"{rig.url}/compat/cosmos_rl/api/reward/ping", data={"info_data": "{}"})
    assert ping.status_code == 200
    assert "message" in ping.json()
    answer = post_job(rig, saved(greys(51, 255)), ["a", "b"], "toy", "other", ocr_use_gpu=False)
    name = answer.json()["uuid"]
    assert uuid.UUID(name).version == 4
    for reward in ("toy", "other"):
        body = pull(rig, name, reward)
        assert body["scores"] == {reward: [0.2, 1.0], f"{reward}_reward": [0.2, 1.0]}
        assert body["input_info"] == {
            "shape": [2, 16, 16, 3],
            "dtype": "torch.uint8",
            "min": "51.000",
            "max": "255.000",
        }
        assert body["type"] == reward
        assert float(body["duration"]) >= float(body["decoded_duration"]) >= 0
    assert pull(rig, name, "toy")["scores"]["toy"] == [0.2, 1.0]  # an answer lost on its way can be fetched again


def test_an_array_in_fortran_order_is_the_same_images(rig: Rig) -> None:
    name = post_job(rig, saved(np.asfortranarray(greys(0, 255))), ["a", "b"], "toy").json()["uuid"]
    assert pull(rig, name, None)["scores"]["toy"] == [0.0, 1.0]


def test_an_accepted_job_outlasts_an_overload(rig: Rig) -> None:
    rig.source.refusals.extend([overloaded(), overloaded()])
    name = post_job(rig, saved(greys(255)), ["a"], "toy").json()["uuid"]
    assert pull(rig, name, "toy")["scores"]["toy"] == [1.0]
    assert not rig.source.refusals


def test_a_failed_job_ends_the_polling_without_a_score(rig: Rig) -> None:
    name = post_job(rig, saved(greys(255, 255)), ["a", "poison"], "toy").json()["uuid"]
    body = pull(rig, name, "toy")
    assert body["scores"] is None
    assert "sample 1: engine_failed" in body["error"]


def test_a_reward_that_is_not_ready_turns_the_job_away(rig: Rig) -> None:
    rig.source.state["toy"] = "loading"
    try:
        answer = post_job(rig, saved(greys(255)), ["a"], "toy")
    finally:
        rig.source.state.clear()
    assert answer.status_code == 503
    assert answer.json()["code"] == "not_ready"


def test_unknown_jobs_and_types_are_told_apart(rig: Rig) -> None:
    url = f"{rig.url}/compat/cosmos_rl/api/reward/pull"
    assert httpx.post(url, data={"uuid": str(uuid.uuid4()), "type": "toy"}).status_code == 404
    assert httpx.post(url, content=b"\xff\xfe").status_code == 400
    name = post_job(rig, saved(greys(255)), ["a"], "toy").json()["uuid"]
    assert httpx.post(url, data={"uuid": name, "type": "clip"}).status_code == 422


def declared(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """A header that promises an array, and no array."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


BAD_ARRAYS = {
    "huge": declared((10**6, 10**6, 10**6, 3)),
    "no rows": declared((10**9, 0, 8, 3)),
    "too short": saved(greys(1))[:-1],
    "too long": saved(greys(1)) + b"x",
    "float": saved(greys(1).astype(np.float32)),
    "objects": saved(np.array([[[[None] * 3]]], object)),
    "flat": saved(greys(1)[0]),
    "two prompts wanted": saved(greys(1, 2)),
    "latents": saved(np.zeros((1, 16, 4, 4), np.uint8)),
    "nested header": b"\x93NUMPY\x01\x00" + (5000).to_bytes(2, "little") + b"(" * 5000,
    "no array": b"",
    "version 9": b"\x93NUMPY\x09\x00\x00\x00",
}


@pytest.mark.parametrize("array", BAD_ARRAYS.values(), ids=BAD_ARRAYS.keys())
def test_a_bad_array_is_refused_at_once(rig: Rig, array: bytes) -> None:
    answer = post_job(rig, array, ["a"], "toy")
    assert answer.status_code == 422
    assert "array" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("head", "status"), [("{", 400), ("{}", 422), ('{"media_type":"video","prompts":["a"],"reward_fn":{"toy":1}}', 422)]
)
def test_a_bad_head_is_a_problem(rig: Rig, head: str, status: int) -> None:
    answer = httpx.post(
        f"{rig.url}/compat/cosmos_rl/api/reward/enqueue", content=head.encode() + b"\n" + saved(greys(1))
    )
    assert answer.status_code == status
    assert post_job(rig, saved(greys(1)), ["a"], "clip").status_code == 404


@given(st.binary(max_size=300), st.integers(0, 127), st.integers(0, 255))
def test_no_array_of_bytes_does_anything_but_images_or_a_refusal(tail: bytes, place: int, value: int) -> None:
    for data in (
        tail,
        b"\x93NUMPY\x01\x00" + tail,
        bytes([*saved(greys(1))[:place], value, *saved(greys(1))[place + 1 :]]),
    ):
        try:
            assert read_images(data).shape[3] == 3
        except RequestRejectedError as refusal:
            assert refusal.code is RejectionCode.INVALID_REQUEST


def test_png_files_lose_nothing() -> None:
    from varl.services.serving.images import ImageLimits, decode_image

    images = np.random.default_rng(0).integers(0, 256, (2, 9, 20, 3), np.uint8)
    for image, file in zip(images, png_files(images), strict=True):
        assert np.array_equal(np.asarray(decode_image(file, ImageLimits(10**6, 10**6, 20, 1))), image)


async def done(result: bytes) -> Results:
    return {"toy": result}


async def settled(jobs: Jobs, name: str) -> None:
    job = jobs.get(name)
    assert job is not None
    await job.task
    await asyncio.sleep(0)  # the callback that takes note of the end


async def test_kept_results_give_way_to_new_jobs_oldest_first() -> None:
    jobs = Jobs(max_jobs=2, max_bytes=1000, keep_seconds=60)
    names = []
    for _ in range(3):
        jobs.reserve(10)
        names.append(jobs.start(("toy",), 10, done(b"12345")))
        await settled(jobs, names[-1])
    assert [jobs.get(name) is None for name in names] == [True, False, False]
    assert (len(jobs), jobs.bytes) == (2, 10)
    jobs.reserve(995)
    assert [jobs.get(name) is None for name in names] == [True, True, False]


async def test_running_jobs_are_never_dropped_but_turn_others_away() -> None:
    jobs = Jobs(max_jobs=2, max_bytes=1000, keep_seconds=60)
    go = asyncio.Event()

    async def work() -> Results:
        await go.wait()
        return {"toy": b"1"}

    jobs.reserve(600)
    name = jobs.start(("toy",), 600, work())
    for size, room in ((401, False), (400, True)):
        if room:
            jobs.reserve(size)
        else:
            with pytest.raises(RequestRejectedError) as refusal:
                jobs.reserve(size)
            assert refusal.value.code is RejectionCode.OVERLOADED
    go.set()
    await settled(jobs, name)
    jobs.reserve(999)


async def test_results_are_kept_for_a_time_only() -> None:
    now = 0.0
    jobs = Jobs(max_jobs=2, max_bytes=1000, keep_seconds=60, clock=lambda: now)
    name = jobs.start(("toy",), 10, done(b"1"))
    await settled(jobs, name)
    now = 60.0
    assert jobs.get(name) is not None
    now = 60.5
    assert jobs.get(name) is None
