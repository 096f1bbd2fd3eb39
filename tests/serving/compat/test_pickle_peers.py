"""Clients of flow_grpo (urllib3's own Retry), deepgen_rl and verl-omni against the restricted pickle routes."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import urllib3

from tests.support.compat_rig import PATIENCE, Rig, ToyScorer, grey, overloaded, serving
from varl.services.serving.status import RejectionCode, RequestRejectedError


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with serving(ToyScorer("toy"), compat_pickle=True, max_request_bytes=1 << 20) as found:
        yield found


def flow_grpo(url: str, data: dict[str, Any], protocol: int | None = None) -> Any:  # noqa: ANN401
    """Unpickles whatever comes, having tried again on 500 alone; the back-off is none here."""
    retry = urllib3.Retry(total=1000, backoff_factor=0, status_forcelist=[500], allowed_methods=None)
    with urllib3.PoolManager(retries=retry, timeout=PATIENCE) as pool:
        return pickle.loads(pool.request("POST", url, body=pickle.dumps(data, protocol)).data)


def both(*values: float) -> dict[str, list[float]]:
    """flow_grpo reads one name, its descendants the other."""
    return {"outputs": list(values), "scores": list(values)}


class FatalError(Exception):
    """What the client does not try again."""


def verl_omni(url: str, image: bytes, prompt: str, max_retries: int = 2) -> float:
    """One image a request; 408, 429 and 5xx again, its back-off left out; any other status is final."""
    body = pickle.dumps({"images": [image], "prompts": [prompt], "metadata": {}})
    for _ in range(max_retries + 1):
        answer = httpx.post(url, content=body, timeout=120)
        if answer.status_code == 200:
            break
        if answer.status_code not in (408, 429) and answer.status_code < 500:
            raise FatalError(pickle.loads(answer.content)["error"])
    else:
        raise ConnectionError(pickle.loads(answer.content)["error"])
    found = pickle.loads(answer.content)
    if "error" in found or not found.get("scores"):
        raise FatalError(str(found))
    return float(found["scores"][0])


def test_flow_grpo_geneval(rig: Rig) -> None:
    metas = [
        {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}], "prompt": "a red dog"},
        {"tag": "new", "include": [], "prompt": "b"},
    ]
    data = {"images": [grey(51, "JPEG"), grey(255, "JPEG")], "meta_datas": metas, "only_strict": False}
    answer = flow_grpo(f"{rig.url}/compat/flow_grpo/geneval", data)
    assert answer["scores"] == answer["rewards"] == answer["strict_rewards"] == [0.2, 1.0]
    assert answer["group_rewards"] == answer["group_strict_rewards"]
    assert answer["group_rewards"].keys() == {
        "single_object",
        "two_object",
        "counting",
        "colors",
        "position",
        "color_attr",
        "new",
    }
    assert answer["group_rewards"]["colors"] == [0.2, -10.0]
    assert answer["group_rewards"]["new"] == [-10.0, 1.0]
    assert answer["group_rewards"]["counting"] == [-10.0, -10.0]
    assert [sample.prompt for sample in rig.source.batches[-1][0].samples] == ["a red dog", "b"]


@pytest.mark.parametrize("protocol", [3, 4])
def test_flow_grpo_deqa_and_unified_reward(rig: Rig, protocol: int) -> None:
    images = [grey(51, "JPEG"), grey(255, "JPEG")]
    assert flow_grpo(f"{rig.url}/compat/flow_grpo/deqa", {"images": images}, protocol) == both(0.2, 1.0)
    for prompts in (["a", "ü"], np.array(["a", "ü"]), [np.str_("a"), np.str_("ü")], ("a", "ü")):
        answer = flow_grpo(
            f"{rig.url}/compat/flow_grpo/unified_reward", {"images": images, "prompts": prompts}, protocol
        )
        assert answer == both(0.2, 1.0)
        assert [sample.prompt for sample in rig.source.batches[-1][0].samples] == ["a", "ü"]


def test_flow_grpo_waits_out_an_overload(rig: Rig) -> None:
    late = RequestRejectedError(RejectionCode.DEADLINE_EXCEEDED, "late")
    rig.source.refusals.extend(
        [overloaded(), RequestRejectedError(RejectionCode.NOT_READY, "loading", retry_after=0.0), late]
    )
    answer = flow_grpo(f"{rig.url}/compat/flow_grpo/unified_reward", {"images": [grey(255)], "prompts": ["a"]})
    assert answer == both(1.0)
    assert not rig.source.refusals


@pytest.mark.parametrize(
    ("prompt", "image", "named"),
    [("a", b"no image", "bad_image"), ("nan", grey(1), "not_finite"), ("poison", grey(1), "engine_failed")],
)
def test_flow_grpo_ends_at_once_on_what_no_retry_would_mend(rig: Rig, prompt: str, image: bytes, named: str) -> None:
    data = {"images": [grey(1), image], "prompts": ["a", prompt]}
    before = len(rig.source.batches)
    with pytest.raises(pickle.UnpicklingError):
        flow_grpo(f"{rig.url}/compat/flow_grpo/unified_reward", data)
    assert len(rig.source.batches) == before + 1
    answer = httpx.post(f"{rig.url}/compat/flow_grpo/unified_reward", content=pickle.dumps(data))
    assert answer.headers["content-type"].startswith("text/plain")
    assert f"sample 1: {named}" in answer.text


def test_deepgen_rl(rig: Rig) -> None:
    for path in ("/compat/deepgen_rl", "/compat/deepgen_rl/"):
        body = {
            "images": [grey(51, "JPEG"), grey(255, "JPEG")],
            "prompts": ["a", "b"],
            "metadata": {"any": [1, {"thing": None}]},
        }
        answer = httpx.post(f"{rig.url}{path}?reward=toy", content=pickle.dumps(body))
        assert pickle.loads(answer.content) == {"scores": [0.2, 1.0]}
    assert pickle.loads(
        httpx.post(f"{rig.url}/compat/deepgen_rl", content=pickle.dumps({"images": [], "prompts": []})).content
    ) == {"scores": []}


def test_every_failure_of_deepgen_rl_is_a_pickled_500(rig: Rig) -> None:
    short = {"images": [grey(1)], "prompts": []}
    for body, named in (
        (pickle.dumps({"images": [b"x"], "prompts": ["a"]}), "sample 0: bad_image"),
        (pickle.dumps(short), "prompts: 0 entries"),
        (pickle.dumps({"images": "text"}), "images"),
        (pickle.dumps(print), "builtins.print is not allowed"),
        (b"junk", "pickle"),
        (b"x" * ((1 << 20) + 1), "bytes"),
    ):
        answer = httpx.post(f"{rig.url}/compat/deepgen_rl", content=body)
        assert answer.status_code == 500
        assert named in pickle.loads(answer.content)["error"]


def test_verl_omni(rig: Rig) -> None:
    url = f"{rig.url}/compat/verl_omni"
    assert verl_omni(url, grey(51, "JPEG"), "a") == 0.2
    rig.source.refusals.extend([overloaded(), overloaded()])
    assert verl_omni(url, grey(255), "a") == 1.0
    rig.source.refusals.extend([overloaded()] * 3)
    with pytest.raises(ConnectionError, match="no room"):
        verl_omni(url, grey(255), "a")
    before = len(rig.source.batches)
    with pytest.raises(FatalError, match="sample 0: bad_image"):
        verl_omni(url, b"no image", "a")
    assert len(rig.source.batches) == before + 1
    with pytest.raises(FatalError, match="clip"):
        verl_omni(f"{url}?reward=clip", grey(1), "a")


def test_with_several_rewards_one_must_be_named() -> None:
    body = pickle.dumps({"images": [grey(255)], "prompts": ["a"], "metadata": {}})
    with serving(ToyScorer("toy"), ToyScorer("other"), compat_pickle=True) as both:
        vague = httpx.post(f"{both.url}/compat/verl_omni", content=body)
        clear = httpx.post(f"{both.url}/compat/verl_omni?reward=other", content=body)
    assert vague.status_code == 422
    assert "?reward=toy" in pickle.loads(vague.content)["error"]
    assert pickle.loads(clear.content) == {"scores": [1.0]}


def test_half_a_surrogate_pair_is_refused(rig: Rig) -> None:
    body = pickle.dumps({"images": [grey(1)], "prompts": ["\ud800"]})
    assert httpx.post(f"{rig.url}/compat/verl_omni", content=body).status_code == 400
