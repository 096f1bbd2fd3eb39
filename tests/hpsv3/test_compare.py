"""The preference between two images: the formula, and the route over a scripted scorer."""

from __future__ import annotations

import base64
import math
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.hpsv3_scripted import POISON, Scripted, sample
from tests.support.ocr_builders import png
from varl.services.hpsv3.compare import preference_probability, routes
from varl.services.hpsv3.scorer import HPSv3Scorer
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService

finite = st.floats(-30, 30)
wide = st.floats(-5, 5)


def belief(mu: float, log_sigma: float) -> dict[str, float]:
    return {"mu": mu, "log_sigma": log_sigma}


@given(finite, wide, finite, wide)
def test_the_two_probabilities_make_one(mu_a: float, sigma_a: float, mu_b: float, sigma_b: float) -> None:
    a, b = belief(mu_a, sigma_a), belief(mu_b, sigma_b)
    forth, back = preference_probability(a, b), preference_probability(b, a)
    assert 0 <= forth <= 1
    assert forth + back == pytest.approx(1)
    assert (forth > 0.5) is (mu_a > mu_b) or mu_a == pytest.approx(mu_b)


def test_without_doubt_it_is_the_logistic_function() -> None:
    assert preference_probability(belief(3, -20), belief(1, -20)) == pytest.approx(1 / (1 + math.exp(-2)))
    assert preference_probability(belief(1e4, 0), belief(-1e4, 0)) == 1
    assert preference_probability(belief(-1e4, 0), belief(1e4, 0)) == 0


@pytest.mark.parametrize(("mu", "log_sigma"), [(0.5, 0.0), (2.0, 0.5), (-1.0, -1.0), (4.0, 1.0)])
def test_it_is_near_the_mean_over_samples_that_the_model_was_trained_on(mu: float, log_sigma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    difference = mu + math.sqrt(2) * math.exp(log_sigma) * torch.randn(400_000, generator=generator)
    expected = torch.sigmoid(difference).mean().item()
    assert preference_probability(belief(mu, log_sigma), belief(0, log_sigma)) == pytest.approx(expected, abs=0.02)


def file(value: int) -> str:
    return base64.b64encode(png(sample(value).pixels)).decode()


async def compare(body: object) -> httpx.Response:
    settings = HPSv3Settings.model_validate({"hub": True})
    service = ScoringService(settings, HPSv3Scorer(Scripted, BatchLimits(8), 1, "float32", None))
    await service.start()
    transport = httpx.ASGITransport(build_app(service, routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/compare", json=body)
    await service.close()
    return answer


async def test_the_answer_has_probability_both_beliefs_and_the_model() -> None:
    answer = (await compare({"prompt": "a cat", "a": file(12), "b": file(10)})).json()
    assert answer == {
        "probability": pytest.approx(preference_probability(belief(12, -1), belief(10, -1))),
        "a": belief(12, -1),
        "b": belief(10, -1),
        "model": {"engine": "scripted", "name": "none", "revision": "0"},
    }


FAULTS: list[tuple[dict[str, Any], int, str, list[str]]] = [
    ({"prompt": "no", "a": file(10), "b": file(11)}, 422, "invalid_request", ["prompt"]),
    ({"prompt": "x", "a": "%%", "b": file(11)}, 422, "invalid_request", ["a"]),
    ({"prompt": "x", "a": "aGVsbG8=", "b": ""}, 422, "invalid_request", ["a", "b"]),
    ({"prompt": "x", "a": file(10)}, 422, "invalid_request", ["b"]),
    ({"prompt": "x", "a": file(10), "b": file(10), "c": 1}, 422, "invalid_request", ["c"]),
    ({"prompt": "x", "a": file(10), "b": file(POISON)}, 500, "engine_failed", []),
]


@pytest.mark.parametrize(("body", "status", "code", "fields"), FAULTS)
async def test_faults_are_problems_that_name_the_field(
    body: dict[str, Any], status: int, code: str, fields: list[str]
) -> None:
    answer = await compare(body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == code
    assert [fault["field"] for fault in problem["errors"]] == fields
