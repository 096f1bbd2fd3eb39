"""What a training run says after every update: a bar where somebody watches, else a line of the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from varl.trainer.progress.time_left import CHECKPOINT, TimeLeft, in_words, timed_parts, training_parts, watched_parts
from varl.trainer.recipe.config import Recipe

logger = logging.getLogger("trainer")
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # tqdm's own time left knows one kind of step
HELD_OUT = ("eval/word_accuracy", "eval/reward")  # the first that an evaluation has


class TrainingBar:
    """Says how far a run is, how well it does, and how long all that is left will take.

    first: the update that it starts at. time_left: learns what every update takes.
    """

    def __init__(self, recipe: Recipe, first: int, time_left: TimeLeft) -> None:
        self._recipe, self._time_left = recipe, time_left
        self._held_out: tuple[str, float] | None = None
        self._redirect = logging_redirect_tqdm()
        self._bar = tqdm(
            total=recipe.run.updates,
            initial=first,
            desc=recipe.run.name,
            unit="update",
            dynamic_ncols=True,
            bar_format=BAR,
            disable=None,  # unless stderr is a terminal
        )

    def __enter__(self) -> TrainingBar:
        self._redirect.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._redirect.__exit__(kind, error, trace)
        self._bar.close()

    def updated(self, update: int, metrics: Mapping[str, float], seconds: float, saving: float | None) -> None:
        """Note an update (counted from 0) that took ``seconds``, and its checkpoint, if any, that took ``saving``."""
        self._time_left.record(timed_parts(self._recipe, update, metrics, seconds))
        if saving is not None:
            self._time_left.record([(CHECKPOINT, saving)])
        left = in_words(self._time_left.seconds(training_parts(self._recipe, update + 1)))
        figures = ", ".join(f"{name} {value:.3f}" for name, value in self._figures(metrics).items())
        self._bar.set_postfix_str(f"about {left} left, {figures}")
        self._bar.update()
        if self._bar.disable:
            logger.info("%d of %d updates: %s; about %s left", update + 1, self._recipe.run.updates, figures, left)

    def finished(self, metrics: Mapping[str, float]) -> None:
        """Note the last evaluation and sample grid."""
        self._time_left.record(watched_parts(self._recipe, metrics))

    def _figures(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The batch's reward and KL, where there was an update, and the newest evaluation's first figure."""
        found = next((name for name in HELD_OUT if name in metrics), None)
        if found:
            self._held_out = f"held-out {found.removeprefix('eval/').replace('_', ' ')}", metrics[found]
        shown = {"reward": "reward/total", "KL": "kl"}
        own = {name: metrics[metric] for name, metric in shown.items() if metric in metrics}
        return own | dict([self._held_out] if self._held_out else [])
