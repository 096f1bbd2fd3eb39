"""Every number of every settings model refuses infinity, NaN and what no machine has, by the setting's name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from varl.policy.infinity.config import InfinityConfig
from varl.policy.nextflow.config import NextFlowConfig
from varl.services.gateway.settings import GatewaySettings
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.judge.settings import JudgeSettings
from varl.services.ocr.settings import OCRSettings
from varl.services.reward.settings import RewardSettings
from varl.services.rollout.settings import RolloutServiceSettings
from varl.studies.demo_settings import DemoSettings
from varl.studies.study.plan import Study
from varl.trainer.recipe.config import Command

Path = tuple[str | int, ...]
Schema = dict[str, Any]

MODELS: tuple[type[BaseModel], ...] = (
    Command,
    Study,
    DemoSettings,
    RolloutServiceSettings,
    OCRSettings,
    HPSv3Settings,
    RewardSettings,
    GatewaySettings,
    JudgeSettings,
    InfinityConfig,
    NextFlowConfig,
)
WRONG = (float("inf"), float("-inf"), float("nan"), 1e300, -1e300, 10**30, -(10**30))
# Numbers without a largest value, and why.
UNBOUNDED = {(Command, ("device-memory",)): "is compared with what a run takes, nothing is allocated by it"}


def numbers(schema: Schema, defs: Schema, path: Path = ()) -> Iterator[Path]:
    """Where a model takes a number: keys of its tables, 0 for an item of a list, "x" for a key that is free."""
    if "$ref" in schema:
        yield from numbers(defs[schema["$ref"].rpartition("/")[2]], defs, path)
    if schema.get("type") in ("integer", "number"):
        yield path
    for choice in [*schema.get("anyOf", ()), *schema.get("allOf", ())]:
        yield from numbers(choice, defs, path)
    for name, inner in schema.get("properties", {}).items():
        yield from numbers(inner, defs, (*path, name))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from numbers(schema["additionalProperties"], defs, (*path, "x"))
    for index, inner in enumerate(schema.get("prefixItems", ())):
        yield from numbers(inner, defs, (*path, index))
    if "items" in schema:
        yield from numbers(schema["items"], defs, (*path, 0))


def settings() -> Iterator[tuple[type[BaseModel], Path]]:
    for model in MODELS:
        schema = model.model_json_schema()
        yield from dict.fromkeys((model, path) for path in numbers(schema, schema.get("$defs", {})))


def placed(path: Path, value: object) -> object:
    """``value`` at ``path`` of tables and lists that have nothing else."""
    for part in reversed(path):
        value = [value] * (part + 1) if isinstance(part, int) else {part: value}
    return value


@pytest.mark.parametrize(
    ("model", "path"),
    list(settings()),
    ids=lambda part: part.__name__ if isinstance(part, type) else ".".join(map(str, part)),
)
def test_a_number_out_of_all_bounds_is_refused_by_name(model: type[BaseModel], path: Path) -> None:
    accepted = [wrong for wrong in WRONG if path not in refused_paths(model, path, wrong)]
    assert accepted == ([10**30] if (model, path) in UNBOUNDED else [])


def refused_paths(model: type[BaseModel], path: Path, value: object) -> list[Path]:
    """Settings that a model complains about; marks of a union's choices, which are no keys, left out."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(placed(path, value))
    return [tuple(part for part in problem["loc"] if part in path) for problem in caught.value.errors()]


def test_the_walk_finds_what_is_nested() -> None:
    found = {path for model, path in settings() if model is Command}
    assert {("rollout", "group_timeout_s"), ("optimizer", "betas", 1), ("rollout", "rewards", 0, "weight")} <= found
    assert ("evaluation", "drift", "dark") in found and len(found) > 60
    assert {path for model, path in settings() if model is NextFlowConfig} >= {("tokenizer", "encoder", 0, 1)}
