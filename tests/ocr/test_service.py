"""The OCR service as a process: both protocols, good and bad input."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from tests.support.ocr_builders import OCRProcess, grpc_sample, json_sample, png, render
from varl.services.serving.grpc.client import RewardClient, RewardRejected
from varl.v1 import reward_pb2, reward_pb2_grpc

BREAD = png(render(["BREAD"]))
TWO = png(render(["RED FOX"], (256, 64), 36))
GOOD = json_sample("good", "a sign that says 'BREAD'", BREAD)


def post(service: OCRProcess, body: object) -> httpx.Response:
    return httpx.post(f"{service.http}/v1/score", json=body, timeout=240)


def still_serves(service: OCRProcess) -> None:
    (result,) = post(service, {"samples": [GOOD]}).json()["results"]
    assert result["value"] > 1.5


def test_a_score_has_value_components_and_words(ocr_service: OCRProcess) -> None:
    body = {"samples": [GOOD, json_sample("two", "", TWO, ["Red", "fox"]), json_sample("wrong", "says 'MILK'", BREAD)]}
    answer = post(ocr_service, body).json()
    assert answer.keys() == {"reward", "model", "results"}
    assert answer["reward"] == "ocr"
    assert answer["model"]["engine"] == "paddleocr-onnxruntime"
    assert answer["model"]["name"] == "PP-OCRv6_small_det+PP-OCRv6_small_rec, detection at 480 then full size"
    assert len(answer["model"]["revision"]) == 12
    good, two, wrong = answer["results"]
    assert [result["id"] for result in answer["results"]] == ["good", "two", "wrong"]
    (word,) = good["words"]
    assert word["text"] == "BREAD"
    assert good["components"] == {"comp": word["confidence"], "sim": word["confidence"], "pen": 0.0}
    assert good["value"] == 2 * word["confidence"]
    assert [word["text"] for word in two["words"]] == ["RED", "FOX"]
    assert two["words"][0]["polygon"] != two["words"][1]["polygon"]
    assert all(len(corner) == 2 for word in two["words"] for corner in word["polygon"])
    assert wrong["value"] < 0.5


async def test_both_faces_give_equal_scores(ocr_service: OCRProcess) -> None:
    info = await asyncio.to_thread(httpx.get, f"{ocr_service.http}/v1/info")
    formulas: list[str] = info.json()["formulas"]
    assert formulas[0] == "comp_sim_pen"
    async with RewardClient(ocr_service.grpc, 240) as client:
        await client.wait_ready(10)
        for formula in ("", *formulas):
            http = post(
                ocr_service, {"samples": [GOOD, json_sample("two", "", TWO, ["red"])], "formula": formula}
            ).json()
            rpc = await client.score(
                [grpc_sample("good", GOOD["prompt"], BREAD), grpc_sample("two", "", TWO, ["red"])], formula
            )
            assert http["model"] == {"engine": rpc.model.engine, "name": rpc.model.name, "revision": rpc.model.revision}
            for ours, theirs in zip(http["results"], rpc.results, strict=True):
                assert (ours["id"], ours["value"], ours["components"]) == (
                    theirs.id,
                    theirs.score.value,
                    dict(theirs.score.components),
                )
                for word, other in zip(ours["words"], theirs.score.words, strict=True):
                    assert word["text"] == other.text
                    assert word["confidence"] == pytest.approx(other.confidence, abs=1e-6)
                    assert [edge for corner in word["polygon"] for edge in corner] == pytest.approx(
                        list(other.polygon), abs=1e-3
                    )


def test_values_are_the_same_again_and_alone_and_in_a_batch(ocr_service: OCRProcess) -> None:
    samples = [
        json_sample(str(index), "", png(render([word], (64 + 8 * index, 64))), ["bread"])
        for index, word in enumerate(["BREAD", "BRED", "", "MILK a"])
    ]
    together = post(ocr_service, {"samples": samples}).json()["results"]
    assert post(ocr_service, {"samples": samples}).json()["results"] == together
    assert post(ocr_service, {"samples": samples[::-1]}).json()["results"] == together[::-1]
    assert [post(ocr_service, {"samples": [sample]}).json()["results"][0] for sample in samples] == together


def test_multipart_carries_raw_files(ocr_service: OCRProcess) -> None:
    head = {"samples": [{"id": "good", "prompt": GOOD["prompt"]}, {"id": "gone", "prompt": "'x'"}]}
    answer = httpx.post(
        f"{ocr_service.http}/v1/score",
        files={"request": (None, json.dumps(head)), "good": ("good.png", BREAD)},
        timeout=240,
    ).json()
    assert answer["results"][0] == post(ocr_service, {"samples": [GOOD]}).json()["results"][0]
    assert answer["results"][1]["error"] == {
        "code": "invalid_field",
        "detail": "image: no file part is named 'gone', or it is empty",
    }


def big(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


BAD_SAMPLES = [
    ("not an image", json_sample("x", "'a'", b"hello, this is text"), "bad_image", "image"),
    ("truncated", json_sample("x", "'a'", BREAD[: len(BREAD) // 2]), "bad_image", "image"),
    ("empty", json_sample("x", "'a'", b""), "bad_image", "image"),
    ("no base64", {"id": "x", "prompt": "'a'", "image": "%%%"}, "bad_image", "image"),
    ("not ascii", {"id": "x", "prompt": "'a'", "image": "ü"}, "bad_image", "image"),
    ("too many pixels", json_sample("x", "'a'", big(4096, 4096)), "image_too_large", "image"),
    ("a strip", json_sample("x", "'a'", big(2000, 10)), "image_too_large", "image"),
    ("one pixel", json_sample("x", "'a'", big(1, 1)), "bad_image", "image"),
    ("no target", json_sample("x", "a sign", BREAD), "no_target", "target_words"),
    ("no target, empty list", json_sample("x", "a sign", BREAD, []), "no_target", "target_words"),
    ("huge prompt", json_sample("x", "'a' " * 100_000, BREAD), "prompt_too_long", "prompt"),
    ("blank target", json_sample("x", "'a'", BREAD, ["ok", "  "]), "invalid_field", "target_words[1]"),
    ("too many targets", json_sample("x", "'a'", BREAD, ["a"] * 65), "invalid_field", "target_words"),
    ("huge target", json_sample("x", "'a'", BREAD, ["a" * 5000]), "invalid_field", "target_words"),
]


@pytest.mark.parametrize(
    ("sample", "code", "field"), [row[1:] for row in BAD_SAMPLES], ids=[row[0] for row in BAD_SAMPLES]
)
def test_a_bad_sample_is_a_typed_error_and_leaves_the_others_alone(
    ocr_service: OCRProcess, sample: dict[str, Any], code: str, field: str
) -> None:
    answer = post(ocr_service, {"samples": [GOOD, sample, {**GOOD, "id": "third"}]})
    assert answer.status_code == 200
    first, bad, third = answer.json()["results"]
    assert bad.keys() == {"id", "error"}
    assert bad["error"]["code"] == code
    assert bad["error"]["detail"].startswith(f"{field}: ")
    assert first["value"] == third["value"] > 1.5
    still_serves(ocr_service)


async def test_bad_samples_have_the_same_codes_over_grpc(ocr_service: OCRProcess) -> None:
    samples = [
        grpc_sample("text", "'a'", b"hello"),
        grpc_sample("truncated", "'a'", BREAD[:60]),
        grpc_sample("pixels", "'a'", big(4096, 4096)),
        grpc_sample("target", "a sign", BREAD),
        grpc_sample("prompt", "'a' " * 100_000, BREAD),
        grpc_sample("blank", "'a'", BREAD, [""]),
        grpc_sample("good", "'bread'", BREAD),
    ]
    async with RewardClient(ocr_service.grpc, 240) as client:
        results = (await client.score(samples)).results
    assert [result.id for result in results] == [sample.id for sample in samples]
    codes = ("BAD_IMAGE", "BAD_IMAGE", "IMAGE_TOO_LARGE", "NO_TARGET", "PROMPT_TOO_LONG", "INVALID_FIELD")
    assert [reward_pb2.ErrorCode.Name(result.error.code) for result in results[:-1]] == [
        f"ERROR_CODE_{code}" for code in codes
    ]
    assert all(result.error.detail for result in results[:-1])
    assert results[-1].score.value > 1.5


BAD_REQUESTS = [
    ("no samples", {"samples": []}, 422, "invalid_request", "samples"),
    ("samples missing", {}, 422, "invalid_request", "samples"),
    ("too many", {"samples": [{**GOOD, "id": str(index)} for index in range(257)]}, 422, "invalid_request", "samples"),
    ("duplicate ids", {"samples": [GOOD, GOOD]}, 422, "invalid_request", "samples[1].id"),
    ("empty id", {"samples": [{**GOOD, "id": ""}]}, 422, "invalid_request", "samples[0].id"),
    ("unknown field", {"samples": [GOOD], "rewards": 1}, 422, "invalid_request", "rewards"),
    ("unknown field of a sample", {"samples": [{**GOOD, "url": "x"}]}, 422, "invalid_request", "samples[0].url"),
    ("wrong type", {"samples": [{**GOOD, "prompt": 3}]}, 422, "invalid_request", "samples[0].prompt"),
    ("unknown formula", {"samples": [GOOD], "formula": "nope"}, 422, "invalid_request", "formula"),
    ("a list", [], 422, "invalid_request", "body"),
]


def is_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"], body["retryable"]) == (status, code, False)
    assert body["type"]
    assert body["title"]
    assert body["detail"]
    return body


@pytest.mark.parametrize(
    ("body", "status", "code", "field"), [row[1:] for row in BAD_REQUESTS], ids=[row[0] for row in BAD_REQUESTS]
)
def test_a_bad_request_is_a_problem_that_names_the_field(
    ocr_service: OCRProcess, body: object, status: int, code: str, field: str
) -> None:
    problem = is_problem(post(ocr_service, body), status, code)
    assert [fault["field"] for fault in problem["errors"]] == [field]
    still_serves(ocr_service)


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
RAW_REQUESTS = [
    ("no json", b"{", {"content-type": "application/json"}, 400, "malformed"),
    ("no utf-8", b'{"samples": "\xff"}', {"content-type": "application/json"}, 400, "malformed"),
    ("deep", b"[" * 100_000, {"content-type": "application/json"}, 400, "malformed"),
    ("another type", b"<a/>", {"content-type": "text/xml"}, 415, "unsupported_type"),
    ("no type", b"{}", {}, 415, "unsupported_type"),
    ("too big", b" " * (33 * 2**20), {"content-type": "application/json"}, 413, "request_too_large"),
    ("form without boundary", b"x", {"content-type": "multipart/form-data"}, 400, "malformed"),
    ("form that is none", b"x", MULTIPART, 400, "malformed"),
    (
        "form without request",
        b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\nx\r\n--x--\r\n',
        MULTIPART,
        422,
        "invalid_request",
    ),
]


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"), [row[1:] for row in RAW_REQUESTS], ids=[row[0] for row in RAW_REQUESTS]
)
def test_what_is_no_request_is_a_problem(
    ocr_service: OCRProcess, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    is_problem(httpx.post(f"{ocr_service.http}/v1/score", content=body, headers=headers, timeout=240), status, code)
    still_serves(ocr_service)


def test_a_body_of_unknown_length_is_bounded_too(ocr_service: OCRProcess) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 2**20

    try:
        answer = httpx.post(
            f"{ocr_service.http}/v1/score", content=chunks(), headers={"content-type": "application/json"}, timeout=240
        )
    except httpx.WriteError:  # the service may close before all is sent
        pass
    else:
        is_problem(answer, 413, "request_too_large")
    still_serves(ocr_service)


def test_a_file_without_sample_is_named(ocr_service: OCRProcess) -> None:
    files: dict[str, tuple[str | None, str | bytes]] = {
        "request": (None, json.dumps({"samples": [{"id": "a", "prompt": "'x'"}]})),
        "a": ("a", BREAD),
        "b": ("b", BREAD),
    }
    problem = is_problem(httpx.post(f"{ocr_service.http}/v1/score", files=files), 422, "invalid_request")
    assert [fault["field"] for fault in problem["errors"]] == ["b"]


def test_unknown_paths_and_methods_are_problems(ocr_service: OCRProcess) -> None:
    is_problem(httpx.get(f"{ocr_service.http}/nope"), 404, "not_found")
    is_problem(httpx.get(f"{ocr_service.http}/v1/score"), 405, "method_not_allowed")


GRPC_REQUESTS = [
    ([], "", "samples"),
    ([grpc_sample("a", "'x'", BREAD)] * 2, "", r"samples\[1\].id"),
    ([grpc_sample("", "'x'", BREAD)], "", r"samples\[0\].id"),
    ([grpc_sample("a", "'x'", BREAD)], "nope", "formula"),
    ([grpc_sample(str(index), "", b"") for index in range(257)], "", "samples"),
]


@pytest.mark.parametrize(("samples", "formula", "field"), GRPC_REQUESTS)
async def test_bad_requests_are_invalid_arguments_over_grpc(
    ocr_service: OCRProcess, samples: list[reward_pb2.Sample], formula: str, field: str
) -> None:
    async with RewardClient(ocr_service.grpc, 240) as client:
        with pytest.raises(RewardRejected, match=f"INVALID_ARGUMENT: {field}: "):
            await client.score(samples, formula)
        assert (await client.score([grpc_sample("a", "'bread'", BREAD)])).results[0].score.value > 1.5


async def test_a_message_over_the_limit_is_not_taken_for_load(ocr_service: OCRProcess) -> None:
    options = [("grpc.max_send_message_length", 64 * 2**20)]
    async with grpc.aio.insecure_channel(ocr_service.grpc, options=options) as channel:
        request = reward_pb2.ScoreRequest(samples=[grpc_sample("a", "'x'", bytes(33 * 2**20))])
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await reward_pb2_grpc.RewardServiceStub(channel).Score(request)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_health_and_info_over_grpc(ocr_service: OCRProcess) -> None:
    async with grpc.aio.insecure_channel(ocr_service.grpc) as channel:
        for name in ("", "varl.v1.RewardService"):
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        info = await reward_pb2_grpc.RewardServiceStub(channel).GetInfo(reward_pb2.GetInfoRequest())
    http = (await asyncio.to_thread(httpx.get, f"{ocr_service.http}/v1/info")).json()
    assert (info.reward, list(info.formulas), info.max_samples, info.max_image_bytes) == tuple(
        http[name] for name in ("reward", "formulas", "max_samples", "max_image_bytes")
    )
    assert info.model.revision == http["model"]["revision"]


def test_probes_and_openapi(ocr_service: OCRProcess) -> None:
    assert httpx.get(f"{ocr_service.http}/livez").json() == {"status": "alive"}
    assert httpx.get(f"{ocr_service.http}/readyz").json() == {"status": "ready"}
    assert httpx.get(f"{ocr_service.http}/docs").status_code == 200
    schema = httpx.get(f"{ocr_service.http}/openapi.json").json()
    operation = schema["paths"]["/v1/score"]["post"]
    assert operation["requestBody"]["content"].keys() == {"application/json", "multipart/form-data"}
    references = re.findall(r'"\$ref": ?"#/([^"]+)"', json.dumps(schema))
    assert references
    for reference in references:
        assert functools.reduce(lambda part, key: part[key], reference.split("/"), schema)
    assert {"200", "400", "413", "415", "422", "429", "503"} <= operation["responses"].keys()


def counters(service: OCRProcess) -> dict[str, float]:
    lines = httpx.get(f"{service.http}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith("varl_"))}


def test_metrics_count_requests_samples_and_failures_by_reason(ocr_service: OCRProcess) -> None:
    before = counters(ocr_service)
    post(ocr_service, {"samples": [GOOD, json_sample("x", "a sign", BREAD), json_sample("y", "'a'", b"?")]})
    post(ocr_service, {"samples": []})
    after = counters(ocr_service)
    expected = {
        'varl_requests_total{outcome="ok",protocol="http",reward="ocr"}': 1,
        'varl_requests_total{outcome="invalid_request",protocol="http",reward="ocr"}': 1,
        'varl_samples_total{reward="ocr"}': 1,
        'varl_failures_total{reason="no_target",reward="ocr"}': 1,
        'varl_failures_total{reason="bad_image",reward="ocr"}': 1,
        'varl_request_seconds_count{protocol="http",reward="ocr"}': 1,
    }
    assert {name: after[name] - before.get(name, 0) for name in expected} == expected
    assert after['varl_samples_in_flight{reward="ocr"}'] == 0
