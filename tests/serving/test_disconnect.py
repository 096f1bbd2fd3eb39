"""Clients that hang up while their request is scored, on every kind of route: what they asked for is dropped."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from tests.support.compat_rig import PATIENCE, ToyScorer
from tests.support.ocr_builders import png, render
from varl.services.hpsv3.compare import routes as compare_routes
from varl.services.serving.http.app import build_app
from varl.services.serving.scoring import ScorerSample
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings

IMAGE = base64.b64encode(png(render(["A"]))).decode()
BODIES = {
    "/v1/score": {"samples": [{"id": "0", "prompt": "a", "image": IMAGE}]},
    "/v1/compare": {"prompt": "a", "a": IMAGE, "b": IMAGE},
    "/compat/openrlhf/get_reward": {"query": [IMAGE], "prompts": ["a"]},
}


class Held(ToyScorer):
    """Every forward waits until it is let go."""

    def __init__(self) -> None:
        super().__init__("toy")
        self.inside, self.go = threading.Event(), threading.Event()

    def _forward(self, samples: Sequence[ScorerSample]) -> list[float]:
        self.inside.set()
        assert self.go.wait(PATIENCE)
        return super()._forward(samples)


@pytest.mark.parametrize("path", BODIES)
async def test_a_request_whose_client_hung_up_is_dropped(path: str) -> None:
    scorer = Held()
    service = ScoringService(ServingSettings.model_validate({}), scorer)
    await service.start()
    app = build_app(service, compare_routes)
    sent, gone = list[Any](), asyncio.Event()
    messages: Iterator[dict[str, Any]] = iter([{"type": "http.request", "body": json.dumps(BODIES[path]).encode()}])

    async def receive() -> dict[str, Any]:
        if message := next(messages, None):
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:  # noqa: ANN401
        sent.append(message)

    request = asyncio.create_task(app(_scope(path), receive, send))
    await asyncio.to_thread(scorer.inside.wait, PATIENCE)
    gone.set()
    async with asyncio.timeout(PATIENCE):
        await request  # though the model still holds what it was given
    assert [message["status"] for message in sent if "status" in message] == [499]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        metrics = (await client.get("/metrics")).text
    assert 'varl_samples_in_flight{reward="toy"} 0.0' in metrics
    if path.startswith("/v1"):
        assert 'varl_requests_total{outcome="client_gone",protocol="http",reward="toy"} 1.0' in metrics
    scorer.go.set()
    await service.close()


def _scope(path: str) -> dict[str, Any]:
    headers = [(b"content-type", b"application/json")]
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }
