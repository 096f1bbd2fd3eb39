"""Base and trained weights under several samplers.

What a colder sampler gives the base for nothing is no gain of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from varl.evaluation.estimates import Estimate
from varl.evaluation.results import Evaluation, Summary, difference


@dataclass(frozen=True)
class SamplerPair:
    """Both weights read with one sampler, on the same prompts and seeds."""

    name: str
    before: Evaluation
    after: Evaluation


@dataclass(frozen=True)
class BestAgainstBest:
    """The best sampler of the base against the best of the trained weights.

    Both are chosen on the prompts that they are read on, so both figures are a little high; their difference hardly is.
    """

    base: str
    base_figure: Estimate
    trained: str
    trained_figure: Estimate
    change: Estimate  # paired by prompt

    def words(self, title: str) -> str:
        """The comparison in one line."""
        return (
            f"{title}, each with its best sampler: base {self.base_figure.value:.3f} ({self.base}), "
            f"trained {self.trained_figure.value:.3f} ({self.trained}), "
            f"{self.change.value:+.3f} ± {self.change.error:.3f} (one standard error)"
        )


def best_against_best(pairs: Sequence[SamplerPair], measure: str) -> BestAgainstBest:
    """Compare each side at its highest ``measure``; raises ValueError where the evaluations share no prompt."""
    base = max(pairs, key=lambda pair: pair.before.estimate(measure).value)
    trained = max(pairs, key=lambda pair: pair.after.estimate(measure).value)
    return BestAgainstBest(
        base.name,
        base.before.estimate(measure),
        trained.name,
        trained.after.estimate(measure),
        difference(base.before, trained.after).changes[measure],
    )


def summarised_pairs(pairs: Sequence[SamplerPair]) -> dict[str, dict[str, Summary]]:
    """What eval.json says of every sampler."""
    return {
        pair.name: {
            "before": pair.before.summary(),
            "after": pair.after.summary(),
            "difference": difference(pair.before, pair.after).summary(),
        }
        for pair in pairs
    }
