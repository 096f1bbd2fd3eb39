"""The prompts that a recipe names, each such that every one of its rewards can judge it."""

from __future__ import annotations

from pathlib import Path

from varl.evaluation.measures.chosen import needs_words
from varl.services.ocr.targets import resolve_targets
from varl.trainer.recipe.config import Recipe
from varl.trajectories.prompt_files import load_prompts
from varl.trajectories.prompts import PromptSpec


def recipe_prompts(recipe: Recipe, path: Path) -> list[PromptSpec]:
    """The prompts of a file; with the OCR reward each has target words, or words in quotes.

    Raises:
        ValueError: a line is no prompt, or one that a reward refuses; the message names file and line.
        FileNotFoundError: there is no such file.
    """
    words = needs_words([reward.name for reward in recipe.rollout.rewards])
    return load_prompts(path, _without_target if words else lambda spec: None)


def _without_target(spec: PromptSpec) -> str | None:
    found = resolve_targets(spec.prompt, spec.target_words)
    return None if found else "target_words: empty, and prompt: no text in quotes, which the OCR reward needs"
