"""Clients of Flow-Factory, OpenRLHF and slime, as they behave when all is well and when it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.compat_rig import PATIENCE, Rig, ToyScorer, base64_of, grey, overloaded, serving
from varl.services.serving.status import RejectionCode, RequestRejectedError


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with serving(ToyScorer("toy"), max_request_bytes=1 << 20) as found:
        yield found


@pytest.fixture(scope="module")
def pair() -> Iterator[Rig]:
    with serving(ToyScorer("toy"), ToyScorer("other")) as found:
        yield found


def compute(url: str, prompt: list[str], images: list[bytes]) -> list[float]:
    """Flow-Factory: three tries without sleep on any error status; an "error" in a 200 is final."""
    body = {
        "prompt": prompt,
        "image": [base64_of(image) for image in images] or None,
        "video": None,
        "condition_images": None,
        "extra": None,
    }
    for attempt in range(3):
        try:
            answer = httpx.post(f"{url}/compute", json=body, timeout=60).raise_for_status().json()
        except httpx.HTTPStatusError as error:
            if attempt == 2:
                raise ConnectionError(str(error.response.json()["detail"])) from error
            continue
        if answer.get("error"):
            raise RuntimeError(answer["error"])
        rewards: list[float] = answer["rewards"]
        return rewards
    raise AssertionError


def get_reward(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """OpenRLHF: five tries on any error; its one-second sleeps are left out."""
    for _ in range(5):
        answer = httpx.post(url, json=body, timeout=PATIENCE)
        if answer.is_success:
            found: dict[str, Any] = answer.json()
            return found
    raise RuntimeError(answer.text)


def remote_rm(url: str, prompt: str, response: str, label: object) -> Any:  # noqa: ANN401
    """slime and miles: ten tries on any error; their back-off is left out."""
    for _ in range(10):
        answer = httpx.post(url, json={"prompt": prompt, "response": response, "label": label}, timeout=120)
        if answer.is_success:
            return answer.json()
    raise RuntimeError(answer.text)


def test_flow_factory_scores_pngs(rig: Rig) -> None:
    url = f"{rig.url}/compat/flow_factory"
    assert httpx.get(f"{url}/health", timeout=5).json() == {"status": "ok"}
    assert compute(url, ["a", "b"], [grey(51), grey(255)]) == [0.2, 1.0]
    assert compute(url, [], []) == []


def test_flow_factory_finds_a_reward_by_path_where_there_are_several(pair: Rig) -> None:
    url = f"{pair.url}/compat/flow_factory"
    assert compute(f"{url}/other", ["a"], [grey(255)]) == [1.0]
    assert pair.source.batches[-1][1] == ("other",)
    assert httpx.get(f"{url}/other/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/clip/health").status_code == 404
    with pytest.raises(ConnectionError, match="toy, other"):
        compute(url, ["a"], [grey(255)])
    assert httpx.post(f"{url}/compute?reward=toy", json={"prompt": ["a"], "image": [base64_of(grey(255))]}).json() == {
        "rewards": [1.0]
    }


def test_flow_factory_does_not_start_before_the_reward_can_score(rig: Rig) -> None:
    rig.source.state["toy"] = "loading"
    try:
        answer = httpx.get(f"{rig.url}/compat/flow_factory/health")
    finally:
        rig.source.state.clear()
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_flow_factory_tries_an_overload_again_but_not_a_bad_image(rig: Rig) -> None:
    url = f"{rig.url}/compat/flow_factory"
    rig.source.refusals.extend([overloaded(), overloaded()])
    assert compute(url, ["a"], [grey(255)]) == [1.0]
    before = len(rig.source.batches)
    with pytest.raises(RuntimeError, match=r"sample 1: bad_image.*1 of 2"):
        compute(url, ["a", "b"], [grey(255), b"no image"])
    assert len(rig.source.batches) == before + 1
    with pytest.raises(ConnectionError, match="image: 1 entries, but prompt has 2"):
        compute(url, ["a", "b"], [grey(255)])


def test_openrlhf_gets_rewards_scores_and_terms(rig: Rig) -> None:
    data_url = f"data:image/png;base64,{base64_of(grey(51))}"
    body = {
        "query": [base64_of(grey(255)), data_url, data_url],
        "prompts": ["a", "b", "c"],
        "labels": [None, "", ["two", "words"]],
    }
    assert get_reward(f"{rig.url}/compat/openrlhf/get_reward", body) == {
        "rewards": [1.0, 0.2, 2.0],
        "scores": [1.0, 0.2, 2.0],
        "extra_logs": {"bright": [1.0, 0.2, 2.0]},
    }
    assert [sample.target_words for sample in rig.source.batches[-1][0].samples] == [(), (), ("two", "words")]


def test_openrlhf_sends_prompt_and_completion_as_one_text(rig: Rig) -> None:
    """As its agent decodes them, special tokens included; a picture in the prompt is not the model's."""
    prompt = f"<|im_start|>user\nBrighter than data:image/png;base64,{base64_of(grey(255))} please<|im_end|>\n"
    completion = f"<|im_start|>assistant\nHere: data:image/png;base64,{base64_of(grey(51))}<|im_end|>"
    url = f"{rig.url}/compat/openrlhf/get_reward"
    assert get_reward(url, {"query": [prompt + completion], "prompts": [prompt], "labels": [""]})["rewards"] == [0.2]
    answer = httpx.post(url, json={"query": [f"{prompt}No.<|im_end|>"], "prompts": [prompt], "labels": [""]})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_image")


def test_openrlhf_may_have_nothing_for_a_server(rig: Rig) -> None:
    assert get_reward(f"{rig.url}/compat/openrlhf/get_reward", {"query": [], "prompts": [], "labels": []}) == {
        "rewards": []
    }


def test_openrlhf_tries_everything_again_and_then_gives_up(rig: Rig) -> None:
    url = f"{rig.url}/compat/openrlhf/get_reward"
    body = {"query": [base64_of(grey(255))], "prompts": ["a"], "labels": ["two"]}
    with pytest.raises(RuntimeError, match="sample 0: engine_failed"):
        get_reward(url, {**body, "prompts": ["poison"]})


def test_a_failed_sample_is_422_and_a_failed_model_500(rig: Rig) -> None:
    url = f"{rig.url}/compat/openrlhf/get_reward"
    fine = base64_of(grey(255))
    rows = [
        ("a", "text", 422, "bad_image"),
        ("a", "data:text/plain,x", 422, "bad_image"),
        ("nothing", fine, 422, "no_target"),
    ]
    for prompt, image, status, code in [
        *rows,
        ("nan", fine, 500, "not_finite"),
        ("a", "http://127.0.0.1/x.png", 422, "bad_image"),
    ]:
        answer = httpx.post(url, json={"query": [fine, image], "prompts": ["a", prompt]})
        assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (status, code, False)
        assert "sample 1" in answer.json()["detail"]
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, ()),
        ("", ()),
        (" ", ()),
        ([], ()),
        ("a b", ("a b",)),
        (50, ("50",)),
        (9.5, ("9.5",)),
        ([7, "up"], ("7", "up")),
    ],
)
def test_a_label_is_the_words_wanted(rig: Rig, label: object, words: tuple[str, ...]) -> None:
    image = base64_of(grey(51))
    get_reward(
        f"{rig.url}/compat/openrlhf/get_reward",
        {"query": [image, image], "prompts": ["a", "b"], "labels": ["x", label]},
    )
    assert rig.source.batches[-1][0].samples[1].target_words == words
    remote_rm(f"{rig.url}/compat/slime/score", "a", image, label)
    assert rig.source.batches[-1][0].samples[0].target_words == words


@pytest.mark.parametrize(
    ("label", "place"), [({"word": "x"}, ""), (True, ""), (["x", None], "[1]"), ([["x"]], "[0]"), ([False], "[0]")]
)
def test_another_label_is_refused_by_name(rig: Rig, label: object, place: str) -> None:
    image = base64_of(grey(51))
    for path, body, field in (
        ("openrlhf/get_reward", {"query": [image] * 2, "prompts": ["a"] * 2, "labels": ["x", label]}, "labels[1]"),
        ("slime/score", {"prompt": "a", "response": image, "label": label}, "label"),
    ):
        answer = httpx.post(f"{rig.url}/compat/{path}", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field + place)


IMPATIENT = {
    "openrlhf/get_reward": {"query": [base64_of(grey(255))], "prompts": ["a"]},
    "slime/score": {"prompt": "a", "response": base64_of(grey(255))},
}
impatient = pytest.mark.parametrize(("path", "body"), IMPATIENT.items(), ids=IMPATIENT)


@impatient
def test_an_overload_is_waited_out_for_a_client_that_soon_gives_up(rig: Rig, path: str, body: dict[str, Any]) -> None:
    metrics = rig.source.services["toy"].metrics
    refused, before = metrics.render().count(b'outcome="overloaded"'), len(rig.source.batches)
    rig.source.refusals.extend([overloaded()] * 9)
    assert httpx.post(f"{rig.url}/compat/{path}", json=body, timeout=PATIENCE).status_code == 200
    assert len(rig.source.batches) == before + 10
    assert refused or b'outcome="overloaded",protocol="http",reward="toy"} 9.0' in metrics.render()


@impatient
def test_it_is_waited_out_no_longer_than_a_request_may_take(path: str, body: dict[str, Any]) -> None:
    with serving(ToyScorer("toy"), request_seconds=0.3) as found:
        found.source.refusals.extend([overloaded()] * 1000)
        answer = httpx.post(f"{found.url}/compat/{path}", json=body, timeout=PATIENCE)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "0")
        assert 2 <= len(found.source.batches) <= 7


@impatient
def test_nobody_waits_for_a_service_that_stops(rig: Rig, path: str, body: dict[str, Any]) -> None:
    before = len(rig.source.batches)
    rig.source.state["toy"] = "draining"
    rig.source.refusals.append(RequestRejectedError(RejectionCode.NOT_READY, "draining", retry_after=0.0))
    try:
        assert httpx.post(f"{rig.url}/compat/{path}", json=body, timeout=PATIENCE).status_code == 503
    finally:
        rig.source.state.clear()
    assert len(rig.source.batches) == before + 1


def test_slime_gets_a_bare_number(rig: Rig, pair: Rig) -> None:
    assert remote_rm(f"{rig.url}/compat/slime/score", "a", base64_of(grey(51)), None) == 0.2
    assert remote_rm(f"{rig.url}/compat/slime/score", "a", base64_of(grey(51)), ["x", "y", "z"]) == 3.0
    assert remote_rm(f"{pair.url}/compat/slime/score?reward=other", "a", base64_of(grey(51)), "x") == 1.0
    with pytest.raises(RuntimeError, match="sample 0: bad_image"):
        remote_rm(f"{rig.url}/compat/slime/score", "a", "a text answer", None)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ([{"role": "system", "content": "Draw."}, {"role": "user", "content": "a sign"}], "a sign"),
        (
            [
                {"role": "user", "content": "no"},
                {"role": "assistant", "content": "?"},
                {"role": "user", "content": "x"},
            ],
            "x",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "image": "…"}, {"type": "text", "text": "a sign"}]}],
            "a sign",
        ),
        ([], ""),
    ],
)
def test_slime_sends_a_chat_where_it_has_no_template(rig: Rig, prompt: list[dict[str, Any]], text: str) -> None:
    body = {"prompt": prompt, "response": f"<svg/> {base64_of(grey(51))}", "label": None}
    assert httpx.post(f"{rig.url}/compat/slime/score", json=body).json() == 0.2
    assert rig.source.batches[-1][0].samples[0].prompt == text


def test_pickle_peers_are_not_there_unless_asked_for(rig: Rig) -> None:
    for path in ("flow_grpo/geneval", "flow_grpo/deqa", "flow_grpo/unified_reward", "deepgen_rl", "verl_omni"):
        assert httpx.post(f"{rig.url}/compat/{path}", content=b"").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["unirl/score", "flow_factory/compute", "openrlhf/get_reward", "slime/score", "cosmos_rl/api/reward/enqueue"],
)
def test_a_body_that_is_too_long_is_413(rig: Rig, path: str) -> None:
    answer = httpx.post(f"{rig.url}/compat/{path}", content=b" " * ((1 << 20) + 1))
    assert answer.status_code == 413
    assert "retry-after" not in answer.headers


def test_every_json_route_is_described_and_no_pickle_route_is() -> None:
    with serving(ToyScorer("toy"), compat_pickle=True) as found:
        paths = httpx.get(f"{found.url}/openapi.json").json()["paths"]
    assert {path.split("/")[2] for path in paths} == {"unirl", "flow_factory", "openrlhf", "slime", "cosmos_rl"}
    for path, methods in paths.items():
        for method, operation in methods.items():
            invalid = (
                {"422"} if operation.get("requestBody", {}).get("required") else set()
            )  # one that may be missing is not looked at
            assert operation["responses"].keys() >= {"200"} | invalid | (
                {"400", "413"} if method == "post" else set()
            ), path
            assert ("requestBody" in operation) == (method == "post")
            assert "$defs" not in str(operation)
