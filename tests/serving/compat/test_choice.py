"""Every peer finds the reward and its formula in the path or in the query, and nothing else in a URL is passed over."""

from __future__ import annotations

import io
import json
import pickle
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.compat_rig import PATIENCE, Rig, ToyScorer, base64_of, grey, serving

IMAGE = grey(51)  # of value 0.2
TEXT = base64_of(IMAGE)
CLIENT = httpx.Client(timeout=PATIENCE)  # one for all: each takes 20 ms to read its certificates


@pytest.fixture(scope="module")
def pair() -> Iterator[Rig]:
    with serving(ToyScorer("toy"), ToyScorer("other"), compat_pickle=True) as found:
        yield found


def posted(body: object) -> Callable[[str], httpx.Response]:
    return lambda url: CLIENT.post(url, json=body)


def pickled(body: object) -> Callable[[str], httpx.Response]:
    return lambda url: CLIENT.post(url, content=pickle.dumps(body))


def enqueue(url: str) -> httpx.Response:
    array = io.BytesIO()
    np.save(array, np.full((1, 16, 16, 3), 51, np.uint8))
    head = {"media_type": "image", "prompts": ["a"], "reward_fn": {"other": 1.0}}
    return CLIENT.post(url, content=json.dumps(head).encode() + b"\n" + array.getvalue())


def number(answer: httpx.Response) -> float:
    found: float = answer.json()
    return found


def first(*keys: str) -> Callable[[httpx.Response], float]:
    """The first value below these keys."""

    def look(answer: httpx.Response) -> float:
        is_pickle = answer.headers["content-type"] == "application/octet-stream"
        found: Any = pickle.loads(answer.content) if is_pickle else answer.json()
        for key in keys:
            found = found[key][0] if isinstance(found[key], list) else found[key]
        return float(found)

    return look


META = {"tag": "colors", "include": [], "prompt": "a"}
# peer, what its client appends or its URL ends with, one request, where its answer has the value
PEERS: dict[str, tuple[str, Callable[[str], httpx.Response], Callable[[httpx.Response], float]]] = {
    "unirl": (
        "/score",
        posted({"requests": [{"history": [{"text": "a", "image_b64": TEXT}], "required_rewards": ["other"]}]}),
        first("results", "other", "other"),
    ),
    "flow_factory": ("/compute", posted({"prompt": ["a"], "image": [TEXT]}), first("rewards")),
    "openrlhf": ("/get_reward", posted({"query": [TEXT], "prompts": ["a"]}), first("scores")),
    "slime": ("/score", posted({"prompt": "a", "response": TEXT}), number),
    "flow_grpo/geneval": ("/geneval", pickled({"images": [IMAGE], "meta_datas": [META]}), first("scores")),
    "flow_grpo/deqa": ("/deqa", pickled({"images": [IMAGE]}), first("outputs")),
    "flow_grpo/unified_reward": ("/unified_reward", pickled({"images": [IMAGE], "prompts": ["a"]}), first("scores")),
    "deepgen_rl": ("", pickled({"images": [IMAGE], "prompts": ["a"]}), first("scores")),
    "verl_omni": ("", pickled({"images": [IMAGE], "prompts": ["a"], "metadata": {}}), first("scores")),
}
ONE_REWARD = [peer for peer in PEERS if peer != "unirl"]


def url_of(rig: Rig, peer: str, named: str = "") -> str:
    """The peer's URL with ``named`` right behind the peer's name."""
    return f"{rig.url}/compat/{peer.partition('/')[0]}{named}{PEERS[peer][0]}"


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("peer", PEERS)
def test_path_and_query_name_a_reward_and_a_formula(pair: Rig, peer: str, slash: str) -> None:
    _, send, value = PEERS[peer]
    for named, query, wanted in (
        ("/other", "", 0.2),
        ("/other/twice", "", 0.4),
        ("/other", "?formula=twice", 0.4),
        ("", "?reward=other&formula=plain", 0.2),
    ):
        answer = send(f"{url_of(pair, peer, named)}{slash}{query}")
        assert (answer.status_code, value(answer)) == (200, wanted)
        assert pair.source.batches[-1][1] == ("other",)


@pytest.mark.parametrize("peer", PEERS)
def test_what_no_one_reads_in_a_url_is_refused(pair: Rig, peer: str) -> None:
    send, before = PEERS[peer][1], len(pair.source.batches)
    for named, query, detail in (
        ("/other", "?fromula=twice", b"fromula: unknown parameter"),
        ("/other", "?reward=other", b"named both in the path and in the query"),
        ("", "?reward=toy&reward=other", b"given more than once"),
        ("/other/none", "", b"'none' is none of plain, twice"),
        ("/third", "", b"'third' is not on offer"),
    ):
        answer = send(f"{url_of(pair, peer, named)}{query}")
        assert answer.status_code >= 400 or answer.json()["errors"][0]["other"], query
        assert detail in answer.content
    assert all(batch.formula == "none" for batch, _ in pair.source.batches[before:])


@pytest.mark.parametrize("peer", ONE_REWARD)
def test_with_several_rewards_one_must_be_named(pair: Rig, peer: str) -> None:
    answer = PEERS[peer][1](url_of(pair, peer))
    assert answer.status_code >= 400
    assert b"name one in the path, as in \xe2\x80\xa6/toy" in answer.content.replace(b"\\u2026", "…".encode())


def test_unirl_and_cosmos_know_one_reward_below_its_name(pair: Rig) -> None:
    below = f"{pair.url}/compat/unirl/other/twice"
    assert CLIENT.get(f"{below}/health").json()["rewards"] == {"other": ["ready"]}
    assert CLIENT.get(f"{below}/rewards/").json() == {"rewards": ["other"]}
    assert PEERS["unirl"][1](f"{pair.url}/compat/unirl/toy/score").status_code == 400
    vague = PEERS["unirl"][1](f"{pair.url}/compat/unirl/score?formula=twice")
    assert (vague.status_code, "Name it" in vague.json()["detail"]) == (422, True)
    cosmos = f"{pair.url}/compat/cosmos_rl/other/twice/api/reward"
    uuid = enqueue(f"{cosmos}/enqueue/").json()["uuid"]
    for _ in range(int(PATIENCE / 0.02)):
        answer = CLIENT.post(f"{cosmos}/pull", data={"uuid": uuid, "type": "other"})
        if answer.status_code == 200:
            break
        time.sleep(0.02)
    assert answer.json()["scores"] == {"other": [0.4], "other_reward": [0.4]}
    assert enqueue(f"{pair.url}/compat/cosmos_rl/toy/api/reward/enqueue").status_code == 404
    for path in ("enqueue", "pull", "ping"):
        assert CLIENT.post(f"{cosmos}/{path}?typo=1").status_code == 422


def test_flow_factory_appends_to_its_url(pair: Rig) -> None:
    for named in ("/other", "/other/twice"):
        assert CLIENT.get(f"{pair.url}/compat/flow_factory{named}/health").json() == {"status": "ok"}
    assert CLIENT.get(f"{pair.url}/compat/flow_factory/clip/health").status_code == 404
