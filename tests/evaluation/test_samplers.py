"""Samplers by name: what users type at ``varl evaluate --sampler`` and in a recipe."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from varl.evaluation.samplers import name_of, parse_sampler
from varl.policy.base import SamplingParams
from varl.trainer.recipe.config import Recipe

HOT = SamplingParams(temperature=1.8, cfg=2.0)


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("greedy", SamplingParams(temperature=1.8, top_k=1, cfg=2.0)),
        ("T=0.5", SamplingParams(temperature=0.5, cfg=2.0)),
        ("T=1,k=4,p=0.9,g=0", SamplingParams(top_k=4, top_p=0.9)),
    ],
)
def test_what_a_name_does_not_say_is_as_in_the_recipe(text: str, params: SamplingParams) -> None:
    assert parse_sampler(text, HOT).params == params


@pytest.mark.parametrize("text", ["", "cold", "T", "T=", "T=0", "k=-1", "p=1.1", "T=1;k=2", "k=2.5"])
def test_other_words_and_values_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_sampler(text, HOT)


def test_a_sampler_names_what_is_on() -> None:
    assert name_of(SamplingParams()) == "T=1"
    assert name_of(SamplingParams(temperature=0.7, top_k=50, top_p=0.9, cfg=1.5)) == "T=0.7,k=50,p=0.9,g=1.5"


@pytest.mark.parametrize("names", [["cold"], ["greedy", "greedy"], ["T=-1"]])
def test_a_recipe_with_a_sampler_that_is_none_is_refused_by_its_field(names: list[str]) -> None:
    with pytest.raises(ValidationError, match="evaluation"):
        Recipe.model_validate({"evaluation": {"samplers": names}})
