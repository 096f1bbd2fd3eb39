"""The metrics of a worker before its first job."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from varl.services.rollout.metrics import Metrics


def test_every_outcome_is_there_before_the_first_group() -> None:
    text = Metrics().render().decode()
    found = {
        sample.labels["outcome"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "varl_rollout_groups_total"
    }
    own = {"ok", "superseded", "left_to_others", "unpublished", "crashed"}
    failures = {"score_failed", "reward_unavailable", "weights_missing", "bad_job"}
    assert found == dict.fromkeys(own | failures, 0.0)
