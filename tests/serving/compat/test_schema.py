"""The OpenAPI of the compat routes against what they do: what it calls required is, and nothing else is."""

from __future__ import annotations

import copy
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.serving.toy_service import ToyScorer as Toy
from benchmarks.serving.toy_service import ToySettings
from tests.support.compat_rig import PATIENCE, Rig, ToyScorer, base64_of, grey, serving
from varl.services.serving.access import OPEN_PATHS
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService

_SETTINGS = ToySettings.model_validate({})
DOCUMENT = build_app(ScoringService(_SETTINGS, Toy(_SETTINGS))).openapi()
ROUTES = [
    (method, path) for path, methods in DOCUMENT["paths"].items() if path.startswith("/compat/") for method in methods
]
IMAGE = base64_of(grey(51))
CLIENT = httpx.Client(timeout=PATIENCE)  # one for all: each takes 20 ms to read its certificates
COSMOS = "/compat/cosmos_rl/api/reward"
FORM = "application/x-www-form-urlencoded"
Path = tuple[str | int, ...]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with serving(ToyScorer("toy")) as found:
        yield found


def job() -> bytes:
    """A line of JSON and an array, as cosmos-rl's trainer enqueues them."""
    array = io.BytesIO()
    np.save(array, np.zeros((1, 16, 16, 3), np.uint8))
    return (
        json.dumps({"media_type": "image", "prompts": ["a"], "reward_fn": {"toy": 1.0}}).encode()
        + b"\n"
        + array.getvalue()
    )


def scored(rig: Rig) -> dict[str, str]:
    """The form that pulls a job that is done."""
    form = {"uuid": send(rig, f"{COSMOS}/enqueue", job()).json()["uuid"]}
    for _ in range(int(PATIENCE / 0.02)):
        if send(rig, f"{COSMOS}/pull", form).status_code == 200:
            return form
        time.sleep(0.02)
    raise AssertionError("never done")


# For each route that takes a body: one with no field but those that the document calls required.
BODIES: dict[str, Callable[[Rig], Any]] = {
    "/compat/unirl/score": lambda _: {"requests": [{"history": [{"text": "a"}], "required_rewards": ["toy"]}]},
    "/compat/flow_factory/compute": lambda _: {"prompt": []},
    "/compat/openrlhf/get_reward": lambda _: {"query": [IMAGE], "prompts": ["a"]},
    "/compat/slime/score": lambda _: {"prompt": "a", "response": IMAGE},
    f"{COSMOS}/enqueue": lambda _: job(),
    f"{COSMOS}/pull": scored,
    f"{COSMOS}/ping": lambda _: {},
}


def documented(path: str) -> tuple[str, dict[str, Any]]:
    """Media type and schema of a route's body."""
    ((media_type, content),) = DOCUMENT["paths"][path]["post"]["requestBody"]["content"].items()
    return media_type, content["schema"]


def send(rig: Rig, path: str, body: Any) -> httpx.Response:  # noqa: ANN401
    """The body as the document says that it is encoded; None for none."""
    url, media_type = f"{rig.url}{path}", documented(path)[0]
    if body is None:
        return CLIENT.post(url)
    if isinstance(body, bytes):
        return CLIENT.post(url, content=body, headers={"content-type": media_type})
    return CLIENT.post(url, data=body) if media_type == FORM else CLIENT.post(url, json=body)


def required(schema: dict[str, Any], at: Path = ()) -> Iterator[Path]:
    """Fields that a schema calls required, those of its inner objects and of the first items of its lists included."""
    yield from ((*at, name) for name in schema.get("required", ()))
    for name, inner in schema.get("properties", {}).items():
        if inner.get("type") == "array":
            yield from required(inner["items"], (*at, name, 0))
        else:
            yield from required(inner, (*at, name))


def fields(value: object, at: Path = ()) -> Iterator[Path]:
    """Fields that a body has, in the same form."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*at, name)
            yield from fields(inner, (*at, name))
    elif isinstance(value, list) and value:
        yield from fields(value[0], (*at, 0))


def without(body: Any, path: Path) -> Any:  # noqa: ANN401
    body = copy.deepcopy(body)
    holder = body
    for step in path[:-1]:
        holder = holder[step]
    del holder[path[-1]]
    return body


def test_every_route_that_takes_a_body_is_here() -> None:
    assert set(BODIES) == {path for method, path in ROUTES if "requestBody" in DOCUMENT["paths"][path][method]}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_what_a_url_may_name_is_described(method: str, path: str) -> None:
    named = {each["name"]: each["in"] for each in DOCUMENT["paths"][path][method]["parameters"]}
    assert named == {"reward": "query", "formula": "query"}


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_is_required_exactly_where_the_document_says_so(rig: Rig, method: str, path: str) -> None:
    needed = DOCUMENT["paths"][path][method].get("requestBody", {}).get("required", False)
    answer = send(rig, path, None) if path in BODIES else CLIENT.get(f"{rig.url}{path}")
    assert answer.is_client_error if needed else answer.status_code == 200
    assert str(answer.status_code) in DOCUMENT["paths"][path][method]["responses"]


@pytest.mark.parametrize("path", BODIES)
def test_the_required_fields_are_enough(rig: Rig, path: str) -> None:
    body = BODIES[path](rig)
    if not isinstance(body, bytes):
        assert set(fields(body)) == set(required(documented(path)[1]))
    assert send(rig, path, body).status_code == 200


@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for path in BODIES for field in required(documented(path)[1])]
)
def test_none_of_them_can_go(rig: Rig, path: str, field: Path) -> None:
    answer = send(rig, path, without(BODIES[path](rig), field))
    assert answer.is_client_error
    assert str(answer.status_code) in DOCUMENT["paths"][path]["post"]["responses"]


def test_tokens_close_all_that_the_document_says_they_do() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            assert ("401" in operation["responses"]) == (path not in OPEN_PATHS), path
