"""The model card of exported weights, made from the run that trained them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from varl.trainer.disk.metrics_log import METRICS_FILE
from varl.trainer.recipe.config import Recipe
from varl.trainer.recipe.describe import describe, to_toml


@dataclass(frozen=True)
class Base:
    """What is known of an architecture's published weights. name: on the hub; empty: none, or not one alone."""

    licence: str
    note: str
    name: str = ""


# What the publishers say of the bases that varl converts; other bases have a licence that only their owner knows.
BASES = {
    "infinity": Base(
        "mit",
        "Infinity's code and weights are published under the MIT licence (FoundationVision).",
        "FoundationVision/Infinity",
    ),
    "nextflow": Base(
        "other",
        "NextFlow's own weights are not published. A base that started from Qwen2.5-VL-7B is under the Apache licence "
        "2.0; the tiny models are under varl's own.",
    ),
}
UNKNOWN = Base("other", "The base's licence is its publisher's.")


@dataclass(frozen=True)
class Figure:
    """A held-out figure before and after training, with standard errors where they are known."""

    name: str
    before: float
    after: float
    before_error: float | None
    after_error: float | None


@dataclass(frozen=True)
class Card:
    """What a model card says. recipe: None where weights alone were exported, of a run that nobody named."""

    name: str
    architecture: str
    base: Path
    weights: Path
    usage: str
    recipe: Recipe | None
    figures: Sequence[Figure]
    base_name: str = ""  # on the hub; empty: what is known of the architecture


def held_out(run: Path) -> list[Figure]:
    """The figures of a run's eval.json or, where it has none, of its first and last evaluation in training."""
    file = run / "eval.json"
    if file.is_file():
        sides = json.loads(file.read_text(encoding="utf-8"))
        return _figures(_flat(sides["before"]), _flat(sides["after"]))
    lines = [json.loads(line) for line in (run / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    found = [
        {name.removeprefix("eval/"): value for name, value in line.items() if name.startswith("eval/")}
        for line in lines
        if "eval/reward" in line
    ]
    return _figures(found[0], found[-1]) if len(found) > 1 else []


def model_card(card: Card) -> str:
    """Markdown with the front matter that hubs read."""
    known = BASES.get(card.architecture, UNKNOWN)
    base = card.base_name or known.name
    named = f" On the hub it is `{base}`." if base else ""
    parts = [
        front_matter(card, known.licence, base),
        f"# {card.name}",
        f"## How to load it\n\n{card.usage}",
        f"## Base\n\n`{card.base}` ({card.architecture}).{named}",
        f"## Licence\n\n{known.note} A fine-tuned model stays under its base's licence; prompts and rewards may add.",
    ]
    return "\n\n".join([*parts, *_run(card), ""])


def front_matter(card: Card, licence: str, base: str) -> str:
    """The YAML at the top of a card, every value as JSON, which YAML includes: licence, base, tags, results."""
    values: dict[str, Any] = {"license": licence}
    if licence == "other":
        values["license_name"] = "see-model-card"
    if base:
        values["base_model"] = base
    values |= {"library_name": "varl", "pipeline_tag": "text-to-image"}
    values["tags"] = ["varl", card.architecture, "reinforcement-learning", "grpo", "visual-autoregressive"]
    if card.recipe and card.figures:
        values["model-index"] = [{"name": card.name, "results": [_result(card.recipe, card.figures)]}]
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"])


def _result(recipe: Recipe, figures: Sequence[Figure]) -> dict[str, Any]:
    """The held-out figures of the trained weights as hubs list them."""
    prompts = recipe.prompts.held_out.stem
    metrics = [{"type": one.name, "name": f"{one.name}, base {one.before:.4f}", "value": one.after} for one in figures]
    return {"task": {"type": "text-to-image"}, "dataset": {"type": prompts, "name": prompts}, "metrics": metrics}


def _run(card: Card) -> list[str]:
    recipe = card.recipe
    if recipe is None:
        return [f"## Training\n\nWeights `{card.weights.name}`; the run that made them was not named."]
    rewards = ", ".join(f"{reward.weight:g} × {reward.name}" for reward in recipe.rollout.rewards)
    adapters = f" Adapters of rank {recipe.model.lora.rank} were trained and are merged." * bool(recipe.model.lora.rank)
    return [
        f"## Training\n\nGRPO with varl on the reward {rewards}.{adapters}\n\n```\n{describe(recipe)}\n```",
        _table(card.figures, recipe),
        f"<details><summary>The whole recipe</summary>\n\n```toml\n{to_toml(recipe).strip()}\n```\n\n</details>",
    ]


def _table(figures: Sequence[Figure], recipe: Recipe) -> str:
    if not figures:
        return "## Held-out figures\n\nNone were measured in this run."
    rows = [
        f"| {one.name} | {_number(one.before, one.before_error)} | {_number(one.after, one.after_error)} |"
        for one in figures
    ]
    head = f"On prompts of `{recipe.prompts.held_out}`, none of which was trained on; ± is a standard error."
    return "\n".join([f"## Held-out figures\n\n{head}\n", "| figure | base | this model |", "|---|---|---|", *rows])


def _number(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"


def _figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Figure]:
    """Those that both sides have; NAME_se is the error of NAME, and counts and drift are no figures."""
    names = [
        name
        for name in before
        if name in after and not name.endswith("_se") and not name.startswith("drift") and name not in COUNTS
    ]
    return [
        Figure(name, before[name], after[name], before.get(f"{name}_se"), after.get(f"{name}_se")) for name in names
    ]


COUNTS = {"prompts", "images", "failures"}


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary of eval.json with the tables inside it flattened: rewards/NAME, and rewards/NAME_se."""
    flat = {name: value for name, value in summary.items() if not isinstance(value, Mapping)}
    for title in ("rewards", "appearance"):
        flat |= {f"{title}/{name}": value for name, value in summary.get(title, {}).items()}
        flat |= {f"{title}/{name}_se": value for name, value in summary.get(f"{title}_se", {}).items()}
    return flat
