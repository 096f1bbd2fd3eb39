"""Every series that the processes really offer, from their own registries, and the PromQL compared with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

from tests.support.compat_rig import ToyScorer
from varl.services.gateway.gateway import Gateway
from varl.services.gateway.settings import GatewaySettings
from varl.services.rollout.metrics import OUTCOMES
from varl.services.rollout.metrics import Metrics as RolloutMetrics
from varl.services.serving.batching.forward import Execution, Result
from varl.services.serving.scoring import ErrorCode
from varl.services.serving.service import ScoringService
from varl.services.serving.settings import ServingSettings, parse_settings
from varl.services.serving.status import RejectionCode

TARGET = {"job", "pod", "instance"}  # what scraping adds to every series
COUNTING = {"rate", "increase"}
PARTS = {"counter": ("",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
REQUESTS = {"ok", *RejectionCode}
VALUES: Mapping[tuple[str, str], set[str]] = {
    ("varl_requests_total", "outcome"): REQUESTS,
    ("varl_gateway_requests_total", "outcome"): REQUESTS,
    ("varl_rollout_groups_total", "outcome"): set(OUTCOMES),
    ("varl_failures_total", "reason"): set(ErrorCode),
    ("varl_executions_total", "result"): set(Result),
}


@dataclass(frozen=True)
class Series:
    """What may be asked of a series: its labels, and whether it only ever rises."""

    labels: frozenset[str]
    rises: bool


async def series() -> dict[str, Series]:
    """Series by name, of a reward service, the gateway and a worker with something counted on each."""
    texts = [_reward().decode(), (await _gateway()).decode(), _rollout().decode()]
    found = {name: one for text in texts for name, one in _series(text)}
    return found | {"up": Series(frozenset(TARGET), rises=False)}


def _reward() -> bytes:
    service = ScoringService(parse_settings(ServingSettings, []), ToyScorer("ocr"))
    metrics = service.metrics
    metrics.request("http", "ok")
    metrics.duration("http", 1.0)
    for reason in (None, "bad_image"):
        metrics.sample(reason)
    observe = service.scorer.batcher.observe
    assert observe is not None
    observe(Execution(1, Result.OK, 1.0, (1.0,)))
    return metrics.render()


async def _gateway() -> bytes:
    gateway = Gateway(parse_settings(GatewaySettings, ["--reward", "ocr=127.0.0.1:1"]))
    gateway.metrics.request("http", "ok")
    gateway.metrics.duration(1.0)
    gateway.metrics.answer("ocr", "ok", 1.0)
    text = gateway.metrics.render()
    await gateway.close()
    return text


def _rollout() -> bytes:
    return RolloutMetrics().render()


def _series(text: str) -> Iterator[tuple[str, Series]]:
    for family in text_string_to_metric_families(text):
        labels = {name for sample in family.samples for name in sample.labels} | TARGET
        for part in PARTS.get(family.type, ()):
            rises = family.type != "gauge"
            yield family.name + ("_total" if family.type == "counter" else part), Series(frozenset(labels), rises)


def faults(expression: str, known: Mapping[str, Series]) -> list[str]:
    """What is wrong with a PromQL expression; raises ValueError where it is none."""
    found: list[str] = []
    _look(promql.parse(expression), known, found, counted=False)
    return found


def _look(node: Any, known: Mapping[str, Series], found: list[str], counted: bool) -> None:  # noqa: ANN401
    if isinstance(node, promql.VectorSelector):
        found += _selector(node, known, counted)
        return
    if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
        offered = frozenset[str]().union(*(known[name].labels for name in names(node) if name in known)) | {"le"}
        found += [f"nothing below has the label {label}" for label in node.modifier.labels if label not in offered]
    calls = isinstance(node, promql.Call) and node.func.name in COUNTING
    for child in _children(node):
        _look(child, known, found, counted or calls)


def names(node: Any) -> set[str]:  # noqa: ANN401
    """Metrics that an expression names."""
    own = {str(node.name)} if isinstance(node, promql.VectorSelector) else set()
    return own.union(*(names(child) for child in _children(node)))


def _children(node: Any) -> list[Any]:  # noqa: ANN401
    if isinstance(node, promql.Call):
        return list(node.args)
    if isinstance(node, promql.BinaryExpr):
        return [node.lhs, node.rhs]
    return [getattr(node, name) for name in ("expr", "vector_selector") if getattr(node, name, None) is not None]


def _selector(node: promql.VectorSelector, known: Mapping[str, Series], counted: bool) -> list[str]:
    one = known.get(str(node.name))
    if one is None:
        return [f"no such metric: {node.name}"]
    found = [f"{node.name} is no counter"] if counted and not one.rises else []
    found += [f"{node.name} is a counter: ask for its rate"] if not counted and one.rises else []
    for matcher in node.matchers.matchers:
        found += [] if matcher.name in one.labels else [f"{node.name} has no label {matcher.name}"]
        values = VALUES.get((str(node.name), matcher.name))
        strange = set(matcher.value.split("|")) - values if values else set()
        found += [f"{node.name}: {matcher.name} is never {value}" for value in sorted(strange)]
    return found
