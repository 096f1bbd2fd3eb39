"""Requests of other trainers are in the same metric as varl's own, once each."""

from __future__ import annotations

import io
import json
import pickle
import re
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from tests.support.compat_rig import ToyScorer, base64_of, grey
from tests.support.gateway_rig import gateway, toy
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService, State
from varl.services.serving.settings import ServingSettings

JSON = {"content-type": "application/json"}
IMAGE = base64_of(grey(51))
FAILS = "poison"


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((1, 16, 16, 3), np.uint8))
    return file.getvalue()


def bodies(prompt: str) -> dict[str, bytes]:
    """A request of each trainer, by its path."""
    turn = {"text": prompt, "image_b64": IMAGE}
    head = {"media_type": "image", "prompts": [prompt], "reward_fn": {"toy": 1.0}}
    pickled = pickle.dumps({"images": [grey(51)], "prompts": [prompt], "meta_datas": [{"prompt": prompt}]})
    return {
        "unirl/score": json.dumps({"requests": [{"history": [turn], "required_rewards": ["toy"]}]}).encode(),
        "flow_factory/compute": json.dumps({"prompt": [prompt], "image": [IMAGE]}).encode(),
        "openrlhf/get_reward": json.dumps({"query": [IMAGE], "prompts": [prompt], "labels": [""]}).encode(),
        "slime/score": json.dumps({"prompt": prompt, "response": IMAGE}).encode(),
        "cosmos_rl/api/reward/enqueue": json.dumps(head).encode() + b"\n" + array(),
        "flow_grpo/geneval": pickled,
        "flow_grpo/deqa": pickled,
        "flow_grpo/unified_reward": pickled,
        "deepgen_rl": pickled,
        "verl_omni": pickled,
    }


PATHS = list(bodies("p"))


@pytest.fixture
async def service() -> AsyncIterator[ScoringService]:
    found = ScoringService(ServingSettings.model_validate({"compat_pickle": True}), ToyScorer("toy"))
    await found.start()
    yield found
    await found.close()


async def post(service: ScoringService, path: str, body: bytes) -> httpx.Response:
    transport = httpx.ASGITransport(build_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        return await http.post(f"/compat/{path}", content=body, headers=JSON)


def counts(rendered: bytes, name: str = "varl_requests_total") -> dict[str, float]:
    """Requests by outcome."""
    lines = re.findall(rf"^{name}{{.*outcome=\"(\w+)\".*}} (\S+)$", rendered.decode(), re.MULTILINE)
    return {outcome: float(count) for outcome, count in lines}


@pytest.mark.parametrize("path", PATHS)
async def test_a_request_is_counted_once_by_its_outcome(service: ScoringService, path: str) -> None:
    assert (await post(service, path, bodies("p")[path])).status_code == 200
    assert counts(service.metrics.render()) == {"ok": 1}
    service.state = State.DRAINING
    await post(service, path, bodies("p")[path])
    assert counts(service.metrics.render()) == {"ok": 1, "not_ready": 1}
    await post(service, path, b"")
    assert counts(service.metrics.render()) == {"ok": 1, "not_ready": 1, "malformed": 1}


@pytest.mark.parametrize("path", PATHS)
async def test_a_failed_sample_is_counted_as_one_and_its_request_as_answered(
    service: ScoringService, path: str
) -> None:
    await post(service, path, bodies(FAILS)[path])
    assert counts(service.metrics.render()) == {"ok": 1}


async def test_a_reward_that_is_not_on_offer_is_counted_as_that(service: ScoringService) -> None:
    body = {"requests": [{"history": [{"text": "p", "image_b64": IMAGE}], "required_rewards": ["else"]}]}
    assert (await post(service, "unirl/score", json.dumps(body).encode())).status_code == 400
    assert counts(service.metrics.render()) == {"no_such_reward": 1}


async def test_looking_and_pulling_are_no_score_requests(service: ScoringService) -> None:
    await post(service, "cosmos_rl/api/reward/ping", b"")
    await post(service, "cosmos_rl/api/reward/pull", b"")
    assert counts(service.metrics.render()) == {}


async def test_the_gateway_counts_them_too() -> None:
    async with toy("toy") as service, gateway({"toy": service.port}) as rig:
        for content in (bodies("p")["openrlhf/get_reward"], bodies(FAILS)["openrlhf/get_reward"], b"{}"):
            await rig.http.post("/compat/openrlhf/get_reward", content=content, headers=JSON)
        found = counts(rig.gateway.metrics.render(), "varl_gateway_requests_total")
    assert found == {"ok": 2, "invalid_request": 1}
