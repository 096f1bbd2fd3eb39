"""Requests made up from the service's own OpenAPI document, fitting and not.

Every answer is one that the document names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from benchmarks.serving.toy_service import ToyScorer, ToySettings
from tests.support.toy_process import ToyProcess, toy_service
from varl.services.serving.http.app import build_app
from varl.services.serving.service import ScoringService

_SETTINGS = ToySettings.model_validate({})
DOCUMENT = build_app(ScoringService(_SETTINGS, ToyScorer(_SETTINGS))).openapi()
operations = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def service() -> Iterator[ToyProcess]:
    with toy_service() as running:
        yield running


def test_the_service_publishes_this_document(service: ToyProcess) -> None:
    assert httpx.get(f"{service.http}/openapi.json").json() == DOCUMENT


@operations.parametrize()
@settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented(case: schemathesis.Case[Any], service: ToyProcess) -> None:
    # What a document can say is less than what is asked for: equal lengths, unique ids, a real image. And the trainers'
    # formats are taken as loosely as the trainers' own servers take them.
    loose = [negative_data_rejection] if case.path.startswith("/compat/") else []
    case.call_and_validate(base_url=service.http, timeout=240, excluded_checks=[positive_data_acceptance, *loose])
