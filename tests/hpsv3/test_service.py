"""The HPSv3 service as a process on a tiny checkpoint: both protocols, good and bad input."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.hpsv3_builders import HPSv3Process, noise
from tests.support.ocr_builders import ENVIRONMENT, grpc_sample, json_sample, png
from tests.support.paths import ROOT
from varl.services.hpsv3.compare import preference_probability
from varl.services.hpsv3.native import NativeEngine
from varl.services.serving.grpc.client import RewardClient
from varl.v1 import reward_pb2

PICTURES = [noise(64, 64), noise(100, 300, 1), noise(448, 448, 2)]
FILES = [png(picture) for picture in PICTURES]
PROMPTS = ["a cat", "two dogs, running", "第三 {x}"]


def test_scores_are_those_of_the_engine(hpsv3_service: HPSv3Process, hpsv3_engine: NativeEngine) -> None:
    samples = [
        json_sample(str(index), prompt, data) for index, (prompt, data) in enumerate(zip(PROMPTS, FILES, strict=True))
    ]
    answer = httpx.post(f"{hpsv3_service.http}/v1/score", json={"samples": samples}, timeout=120).json()
    assert answer["reward"] == "hpsv3"
    assert answer["model"]["engine"] == "hpsv3-native-float32"
    assert answer["model"]["revision"] == hpsv3_engine.model.revision
    expected = hpsv3_engine.score([hpsv3_engine.prepare(*pair) for pair in zip(PICTURES, PROMPTS, strict=True)])
    for result, preference in zip(answer["results"], expected, strict=True):
        assert result["value"] == result["components"]["mu"] == pytest.approx(preference.mu, abs=5e-6)
        assert result["components"]["log_sigma"] == pytest.approx(preference.log_sigma, abs=5e-6)


async def test_both_faces_agree_and_a_bad_prompt_fails_alone(hpsv3_service: HPSv3Process) -> None:
    prompts = ["a cat", "a <|Reward|>", "1 " * 1500, "a dog"]
    body = {"samples": [json_sample(str(index), prompt, FILES[0]) for index, prompt in enumerate(prompts)]}
    http = (await asyncio.to_thread(httpx.post, f"{hpsv3_service.http}/v1/score", json=body, timeout=120)).json()[
        "results"
    ]
    async with RewardClient(hpsv3_service.grpc, 120) as client:
        rpc = await client.score(
            [grpc_sample(str(index), prompt, FILES[0]) for index, prompt in enumerate(prompts)], "mu"
        )
    assert [http[index]["error"]["code"] for index in (1, 2)] == ["invalid_field", "prompt_too_long"]
    codes = [reward_pb2.ErrorCode.Name(rpc.results[index].error.code) for index in (1, 2)]
    assert codes == ["ERROR_CODE_INVALID_FIELD", "ERROR_CODE_PROMPT_TOO_LONG"]
    for index in (0, 3):
        assert http[index]["value"] == pytest.approx(rpc.results[index].score.value, abs=5e-6)
    assert http[0]["value"] != http[3]["value"]


def test_compare_prefers_what_score_prefers(hpsv3_service: HPSv3Process) -> None:
    a, b = (base64.b64encode(data).decode() for data in FILES[:2])
    answer = httpx.post(
        f"{hpsv3_service.http}/v1/compare", json={"prompt": "a cat", "a": a, "b": b}, timeout=120
    ).json()
    assert answer["probability"] == pytest.approx(preference_probability(answer["a"], answer["b"]))
    samples = [json_sample("a", "a cat", FILES[0]), json_sample("b", "a cat", FILES[1])]
    scored = httpx.post(f"{hpsv3_service.http}/v1/score", json={"samples": samples}, timeout=120).json()["results"]
    assert [answer[side]["mu"] for side in "ab"] == pytest.approx([result["value"] for result in scored], abs=5e-6)


def test_compare_takes_json_alone_and_is_documented(hpsv3_service: HPSv3Process) -> None:
    answer = httpx.post(f"{hpsv3_service.http}/v1/compare", content=b"x", headers={"content-type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_type")
    answer = httpx.post(f"{hpsv3_service.http}/v1/compare", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    operation = httpx.get(f"{hpsv3_service.http}/openapi.json").json()["paths"]["/v1/compare"]["post"]
    assert operation["requestBody"]["content"]["application/json"]["schema"]["required"] == ["prompt", "a", "b"]


def start(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "varl.services.hpsv3", "--http-port", "0", "--grpc-port", "0", *flags]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def test_settings_name_exactly_one_source_of_weights(tmp_path: Path) -> None:
    for flags in ((), ("--hub", "--checkpoint", str(tmp_path))):
        ended = start(*flags)
        assert ended.returncode == 2
        assert "checkpoint or hub" in ended.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--device", "cpu"), "no weights at"),
        (("--device", "cuda:99"), "device 'cuda:99'"),
        (("--engine", "package", "--device", "cpu"), "set dtype to float32"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, flags: tuple[str, ...], message: str) -> None:
    ended = start("--checkpoint", str(tmp_path), *flags)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
