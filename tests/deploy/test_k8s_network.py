from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.k8s_network import Edge, edges
from tests.support.k8s_rig import Object, find, render


def _dns(*names: str) -> set[Edge]:
    return {(name, "DNS", port) for name in names for port in (53, -53)}


# The arrows of the design's diagram. The policy's weights go by the volume, not over the network.
DIAGRAM: set[Edge] = {
    ("trainer", "redis", 6379),
    ("rollout", "redis", 6379),
    ("rollout", "ocr", 50051),
    ("rollout", "hpsv3", 50051),
    ("gateway", "ocr", 50051),
    ("gateway", "hpsv3", 50051),
    ("another project", "gateway", 8080),
}
METRICS: set[Edge] = {("Prometheus", name, 8080) for name in ("ocr", "hpsv3", "gateway")} | {
    ("Prometheus", "rollout", 9102)
}
BASE = DIAGRAM | METRICS | _dns("gateway", "rollout", "trainer")
WANTED: dict[str, set[Edge]] = {
    "base": BASE,
    "overlays/kueue": BASE,
    "overlays/autoscale": BASE | {("KEDA", "redis", 6379)},
    "overlays/gpu": BASE | _dns("fetch-weights") | {("fetch-weights", "the internet", 443)},
}


@pytest.mark.parametrize("folder", WANTED)
def test_the_edges_are_those_of_the_diagram(folder: str) -> None:
    assert edges(render(folder)) == WANTED[folder]


def _without(name: str) -> Callable[[list[Object]], object]:
    return lambda objects: objects.remove(find(objects, "NetworkPolicy", name))


def _rule(name: str, way: str) -> Callable[[list[Object]], Object]:
    return lambda objects: find(objects, "NetworkPolicy", name)["spec"][way][0]


@pytest.mark.parametrize(
    ("breaks", "gained", "lost"),
    [
        (_without("default-deny"), {("a stranger", "tensorboard", 6006), ("ocr", "the API server", 443)}, set()),
        (_without("queue"), set(), {("trainer", "redis", 6379), ("rollout", "redis", 6379)}),
        (_without("gateway"), set(), {("another project", "gateway", 8080)}),
        (lambda o: _rule("redis", "ingress")(o).pop("ports"), set(), set()),  # the other end still holds
        (lambda o: _rule("gateway", "ingress")(o).pop("from"), {("a stranger", "gateway", 8080)}, set()),
        (lambda o: _rule("gateway", "ingress")(o).pop("ports"), {("another project", "gateway", 1)}, set()),
        (lambda o: _rule("dns", "egress")(o)["to"][0].pop("podSelector"), {("trainer", "a system pod", 53)}, set()),
        (
            lambda o: _rule("scoring", "egress")(o)["to"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
            {("rollout", "the internet", 50051)},
            set(),
        ),
    ],
)
def test_a_gap_or_a_missing_edge_is_found(
    breaks: Callable[[list[Object]], object], gained: set[Edge], lost: set[Edge]
) -> None:
    objects = render("base")
    if gained and ("ocr", "the API server", 443) in gained:  # a port that somebody names
        objects += [
            one
            for one in render("overlays/gpu")
            if one["metadata"]["name"] == "fetch-weights" and one["kind"] == "NetworkPolicy"
        ]
    before = edges(objects)
    breaks(objects)
    after = edges(objects)
    assert gained <= after - before
    assert lost <= before - after
    assert bool(after - before) == bool(gained)
    assert bool(before - after) == bool(lost)
