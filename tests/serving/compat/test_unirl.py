"""UniRL's client: handshake against /health, one POST with several rewards, failures named apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.compat_rig import PATIENCE, Rig, ToyScorer, base64_of, grey, overloaded, serving
from varl.services.serving.status import STATUS, RejectionCode, RequestRejectedError


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with serving(ToyScorer("toy"), ToyScorer("other")) as found:
        yield found


def item(prompt: str, image: bytes, *rewards: str) -> dict[str, Any]:
    history = [{"text": prompt, "image_b64": base64_of(image)}]
    return {"history": history, "required_rewards": list(rewards), "metadata": {"sample_id": 1}}


def handshake(base_url: str, required: list[str]) -> None:
    """As the trainer does when it starts."""
    body = httpx.get(f"{base_url}/health", timeout=5).raise_for_status().json()
    if not isinstance(body.get("rewards"), dict) or set(required) - set(body["rewards"]):
        raise RuntimeError(f"the service lacks one of {required}")


def score(base_url: str, items: list[dict[str, Any]], tries: int = 3) -> dict[str, Any]:
    """As the trainer does in every step: any failed status is tried again."""
    for attempt in range(tries):
        answer = httpx.post(f"{base_url}/score", json={"requests": items}, timeout=PATIENCE)
        if answer.is_success:
            body: dict[str, Any] = answer.json()
            return body
        if attempt == tries - 1:
            answer.raise_for_status()
    raise AssertionError


def test_the_handshake_passes_for_rewards_on_offer_alone(rig: Rig) -> None:
    handshake(f"{rig.url}/compat/unirl", ["toy", "other"])
    with pytest.raises(RuntimeError):
        handshake(f"{rig.url}/compat/unirl", ["geneval"])
    assert httpx.get(f"{rig.url}/compat/unirl/health").json() == {
        "status": "ok",
        "rewards": {"toy": ["ready"], "other": ["ready"]},
    }
    assert httpx.get(f"{rig.url}/compat/unirl/rewards").json() == {"rewards": ["toy", "other"]}


def test_each_request_gets_the_rewards_it_requires(rig: Rig) -> None:
    answer = score(
        f"{rig.url}/compat/unirl", [item("a", grey(51), "toy", "other"), item("b", grey(255, "JPEG"), "other")]
    )
    assert answer["results"] == [{"toy": {"toy": 0.2}, "other": {"other": 0.2}}, {"other": {"other": 1.0}}]
    assert answer["errors"] == [{}, {}]


def test_the_rewards_look_at_the_last_turn(rig: Rig) -> None:
    before = {"text": "poison", "image_b64": base64_of(grey(0))}
    request = item("edited", grey(255), "toy")
    request["history"].insert(0, before)
    assert score(f"{rig.url}/compat/unirl", [request])["results"] == [{"toy": {"toy": 1.0}}]


def test_a_failed_sample_is_left_out_and_named(rig: Rig) -> None:
    bad = [item("poison", grey(0), "toy"), item("nan", grey(0), "toy"), item("x", b"no image", "toy")]
    no_image = {"history": [{"text": "x", "video_path": "/etc/passwd"}], "required_rewards": ["toy"]}
    no_base64 = {"history": [{"text": "x", "image_b64": "%%"}], "required_rewards": ["toy"]}
    answer = score(f"{rig.url}/compat/unirl", [item("fine", grey(255), "toy"), *bad, no_image, no_base64])
    assert answer["results"] == [{"toy": {"toy": 1.0}}, {}, {}, {}, {}, {}]
    codes = [error.get("toy", "").split(":")[0] for error in answer["errors"]]
    assert codes == ["", "engine_failed", "not_finite", "bad_image", "invalid_field", "bad_image"]
    assert "requests[4].history[0].image_b64" in answer["errors"][4]["toy"]


@pytest.mark.parametrize("code", [RejectionCode.NOT_READY, RejectionCode.OVERLOADED])
def test_one_reward_whose_refusal_may_pass_is_a_status_that_the_client_tries_again(
    rig: Rig, code: RejectionCode
) -> None:
    body = {"requests": [item("a", grey(255), "toy", "other")]}
    rig.source.refusals.append(RequestRejectedError(code, "on purpose", retry_after=3.0))
    answer = httpx.post(f"{rig.url}/compat/unirl/score", json=body)
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (STATUS[code].http, code, "3")
    rig.source.refusals.append(RequestRejectedError(code, "on purpose"))
    assert len(score(f"{rig.url}/compat/unirl", body["requests"])["results"][0]) == 2


def test_of_several_the_one_that_is_there_last_says_when(rig: Rig) -> None:
    rig.source.refusals.extend(
        RequestRejectedError(RejectionCode.OVERLOADED, "on purpose", retry_after=seconds) for seconds in (2.0, 9.0)
    )
    answer = httpx.post(f"{rig.url}/compat/unirl/score", json={"requests": [item("a", grey(255), "toy", "other")]})
    assert answer.headers["retry-after"] == "9"


def test_one_reward_that_refuses_for_good_leaves_the_other_alone(rig: Rig) -> None:
    rig.source.refusals.append(RequestRejectedError(RejectionCode.INVALID_REQUEST, "toy has no such formula"))
    answer = score(f"{rig.url}/compat/unirl", [item("a", grey(255), "toy", "other")])
    assert len(answer["results"][0]) == len(answer["errors"][0]) == 1
    assert "invalid_request" in str(answer["errors"])


def test_an_overload_of_everything_is_a_status_that_the_client_tries_again(rig: Rig) -> None:
    rig.source.refusals.extend([overloaded(), overloaded()])
    assert score(f"{rig.url}/compat/unirl", [item("a", grey(255), "toy")])["results"] == [{"toy": {"toy": 1.0}}]
    assert not rig.source.refusals


def test_an_unknown_reward_is_a_400_that_names_it(rig: Rig) -> None:
    answer = httpx.post(f"{rig.url}/compat/unirl/score", json={"requests": [item("a", grey(1), "toy", "clip")]})
    assert answer.status_code == 400
    assert "clip" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"), [("{", 400), ("{}", 422), ('{"requests":[{"history":[],"required_rewards":["toy"]}]}', 422)]
)
def test_bad_bodies_are_problems(rig: Rig, body: str, status: int) -> None:
    answer = httpx.post(f"{rig.url}/compat/unirl/score", content=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_no_requests_no_results(rig: Rig) -> None:
    assert score(f"{rig.url}/compat/unirl", []) == {"results": [], "errors": []}
