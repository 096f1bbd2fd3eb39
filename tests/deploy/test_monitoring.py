from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tests.support.k8s_rig import of_kind, render
from tests.support.monitoring_rig import Series, faults, series
from tests.support.paths import ROOT

MONITORING = ROOT / "monitoring"
RULES = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
SCRAPE = yaml.safe_load((MONITORING / "scrape.yaml").read_text())["scrape_configs"][0]
GUIDE = (ROOT / "docs" / "operate.md").read_text()


@pytest.fixture
async def known() -> Mapping[str, Series]:
    return await series()


def shown() -> Iterator[tuple[str, str]]:
    """(panel, expression) of the dashboard, Grafana's own variable replaced as Grafana does it."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


async def test_alerts_ask_for_what_there_is(known: Mapping[str, Series]) -> None:
    assert {rule["alert"]: found for rule in RULES if (found := faults(rule["expr"], known))} == {}


async def test_the_dashboard_asks_for_what_there_is(known: Mapping[str, Series]) -> None:
    assert [(panel, found) for panel, expression in shown() if (found := faults(expression, known))] == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("varl_requests", "no such metric: varl_requests"),
        ("sum(rate(varl_rollout_images[5m]))", "no such metric: varl_rollout_images"),
        ('rate(varl_requests_total{reason="x"}[5m])', "varl_requests_total has no label reason"),
        ('rate(varl_requests_total{outcome=~"ok|overload"}[5m])', "varl_requests_total: outcome is never overload"),
        ("rate(varl_samples_in_flight[5m])", "varl_samples_in_flight is no counter"),
        ("sum(varl_requests_total)", "varl_requests_total is a counter: ask for its rate"),
        ("sum by (worker) (varl_rollout_jobs_in_hand)", "nothing below has the label worker"),
    ],
)
async def test_a_wrong_question_is_found(known: Mapping[str, Series], expression: str, fault: str) -> None:
    assert fault in faults(expression, known)
    with pytest.raises(ValueError, match=r"\w"):
        faults(f"{expression} >", known)


def test_every_alert_can_be_acted_on() -> None:
    names = [rule["alert"] for rule in RULES]
    assert sorted(set(names)) == sorted(names)
    assert re.findall(r"^### (Varl\w+)$", GUIDE, re.MULTILINE) == names, (
        "docs/operate.md has a section for each, in their order"
    )
    for rule in RULES:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert re.fullmatch(r"\d+m", rule.get("for", "0m"))
        assert rule["annotations"].keys() == {"summary"}


async def test_summaries_use_labels_that_their_expressions_keep() -> None:
    for rule in RULES:
        used = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        grouped = [set(re.split(r",\s*", labels)) for labels in re.findall(r"by \(([\w, ]+)\)", rule["expr"])]
        assert used <= (set.intersection(*grouped) if grouped else {"job", "pod"}), rule["alert"]


def _jobs(scrape: Any) -> set[str]:  # noqa: ANN401
    """The job of every port that scraping would keep, by the Services as rendered."""
    keep, job, _ = scrape["relabel_configs"]
    ports = [
        (one["metadata"]["name"], port["name"])
        for one in of_kind(render("base"), "Service")
        for port in one["spec"]["ports"]
    ]
    kept = [name for name, port in ports if re.fullmatch(keep["regex"], port)]
    return {
        match.expand(job["replacement"].replace("$1", r"\1")) if (match := re.fullmatch(job["regex"], name)) else name
        for name in kept
    }


def test_harmless_outcomes_are_no_failing_groups() -> None:
    (rule,) = (rule for rule in RULES if rule["alert"] == "VarlGroupsFailing")
    (harmless,) = re.findall(r'outcome!~"([^"]+)"', rule["expr"])
    assert set(harmless.split("|")) == {"ok", "superseded", "left_to_others"}


def test_scraping_gives_the_jobs_that_alerts_name() -> None:
    found = _jobs(SCRAPE)
    assert found == {"varl/ocr", "varl/hpsv3", "varl/gateway", "varl/rollout"}
    for expression in [rule["expr"] for rule in RULES] + [expression for _, expression in shown()]:
        for match in re.findall(r'job=~?"([^"]+)"', expression):
            assert any(re.fullmatch(match, job) for job in found), expression


def test_panels_stand_side_by_side() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    taken = [(x, y) for panel in panels for x, y in _cells(panel["gridPos"])]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24
    (variable,) = DASHBOARD["templating"]["list"]
    wanted = {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
    assert all(one["datasource"] == wanted for panel in panels for one in (panel, *panel["targets"]))


def _cells(place: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        yield from ((x, y) for y in range(place["y"], place["y"] + place["h"]))
