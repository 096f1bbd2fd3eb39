"""What to do with a finished run: the same commands at the end of a demo and of its report."""

from __future__ import annotations

from varl.trainer.recipe.config import Recipe


def next_steps(recipe: Recipe, prompt: str) -> list[tuple[str, str]]:
    """Commands, each with what it is for. ``prompt``: one of the run's, to draw."""
    run = recipe.run.dir / recipe.run.name
    return [
        (f"tensorboard --logdir {run / 'tb'}", "the curves"),
        (
            f'varl generate "{prompt}" --model {recipe.model.dir} --weights {run / "weights" / "final.safetensors"}',
            "draw with the trained weights",
        ),
        (f"varl compare {run} ANOTHER_RUN", "beside another run"),
        ("varl demo --recipe examples/brightness.toml --run-dir runs/brightness", "a reward of your own"),
    ]
