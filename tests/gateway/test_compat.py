"""Trainers' own wire formats against the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from clients.varl_client import AsyncRewardClient, Score, ScoreError
from tests.support.compat_rig import base64_of, grey
from tests.support.gateway_rig import Rig, Toy, gateway, toy


@pytest.fixture
async def second() -> AsyncIterator[Toy]:
    async with toy("second") as service:
        yield service


@pytest.fixture
async def rig(second: Toy) -> AsyncIterator[Rig]:
    async with toy("first") as first, gateway({"first": first.port, "second": second.port}) as found:
        await found.until("first", "ready")
        await found.until("second", "ready")
        yield found


def item(prompt: str, *rewards: str) -> dict[str, Any]:
    return {"history": [{"text": prompt, "image_b64": base64_of(grey(255))}], "required_rewards": list(rewards)}


async def test_unirl_gets_each_of_its_rewards(rig: Rig) -> None:
    health = (await rig.http.get("/compat/unirl/health")).json()
    assert health == {"status": "ok", "rewards": {"first": ["ready"], "second": ["ready"]}}
    body = {"requests": [item("a", "first", "second"), item("poison", "second"), item("b", "first")]}
    answer = (await rig.http.post("/compat/unirl/score", json=body)).json()
    assert answer["results"] == [{"first": {"first": 1.0}, "second": {"second": 1.0}}, {}, {"first": {"first": 1.0}}]
    assert answer["errors"][1]["second"].startswith("engine_failed: ")


async def test_unirl_is_told_of_a_reward_that_is_down(rig: Rig, second: Toy) -> None:
    await second.health.set_serving(False)
    await rig.until("second", "unavailable")
    answer = await rig.http.post("/compat/unirl/score", json={"requests": [item("a", "first", "second")]})
    assert (answer.status_code, answer.json()["detail"]) == (503, "second is unavailable")
    alone = await rig.http.post("/compat/unirl/score", json={"requests": [item("a", "second")]})
    assert (alone.status_code, alone.json()["code"]) == (503, "not_ready")


async def test_a_peer_that_knows_one_reward_names_it_in_the_url(rig: Rig) -> None:
    body = {"query": [base64_of(grey(51))], "prompts": ["p"], "labels": [""]}
    assert (await rig.http.post("/compat/openrlhf/get_reward", json=body)).status_code == 422
    answer = await rig.http.post("/compat/openrlhf/get_reward?reward=second", json=body)
    assert answer.status_code == 200
    assert answer.json()["rewards"] == [0.2]


async def test_the_client_asks_again_for_the_reward_that_was_away(rig: Rig, second: Toy) -> None:
    async with AsyncRewardClient(rig.url, batch_samples=4) as client:
        await second.health.set_serving(False)
        await rig.until("second", "unavailable")
        scoring = asyncio.create_task(client.score([grey(51)] * 6, ["p"] * 6))
        while b'outcome="not_ready",reward="second"' not in rig.gateway.metrics.render():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await second.health.set_serving(True)
        scores = await scoring
    assert scores["first"].require() == scores["second"].require() == [0.2] * 6


async def test_the_client_gives_up_on_one_reward_and_keeps_the_other(rig: Rig, second: Toy) -> None:
    await second.health.set_serving(False)
    await rig.until("second", "unavailable")
    async with AsyncRewardClient(rig.url, attempts=1) as client:
        scores = await client.score([grey(51)], ["p"])
    (good,), (bad,) = scores["first"].outcomes, scores["second"].outcomes
    assert isinstance(good, Score)
    assert isinstance(bad, ScoreError)
    assert (bad.code, bad.retryable) == ("not_ready", True)
