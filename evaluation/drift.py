"""How far the images have drifted from the base's: same prompts, same seeds, figures that no reward is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from varl.evaluation.estimates import Estimate, pooled_ratio
from varl.evaluation.measures.appearance import BY_NAME, COLOUR
from varl.evaluation.results import Evaluation, PromptResult, common_prompts, difference

COLOUR_SHIFT, COLOUR_DISTANCE = BY_NAME + "colour_shift", BY_NAME + "colour_distance"
Floats = npt.NDArray[np.float64]
ERRORS = 2.0  # standard errors by which a drift must be known before it counts


@dataclass(frozen=True)
class Drift:
    """One figure: of the base, its change since, and the change from which on it is an alarm (None: none was named)."""

    name: str
    base: float
    change: Estimate
    limit: float | None

    @property
    def beyond(self) -> bool:
        """Whether the change is beyond the limit, and no accident of the prompts."""
        size = abs(self.change.value)
        return self.limit is not None and size > self.limit and size >= ERRORS * self.change.error

    def words(self) -> str:
        """The drift in one line."""
        name = self.name.removeprefix(BY_NAME)
        return f"{name} {self.change.value:+.3g} from the base's {self.base:.3g}, limit {self.limit:g}"


def drifts(base: Evaluation, now: Evaluation, limits: Mapping[str, float]) -> list[Drift]:
    """Every figure of appearance that both evaluations have, and two of colour; ``limits`` by figure.

    Raises:
        ValueError: the evaluations are not of the same prompts and seeds.
    """
    changes = {name: change for name, change in difference(base, now).changes.items() if name.startswith(BY_NAME)}
    found = {name: (base.estimate(name).value, change) for name, change in changes.items() if _shown(name)}
    if all(BY_NAME + axis in changes for axis in COLOUR):
        before, after = common_prompts(base, now)
        moved = _colours(after) - _colours(before)
        found |= {COLOUR_SHIFT: (0.0, colour_shift(moved)), COLOUR_DISTANCE: (0.0, colour_distance(moved))}
    return [Drift(name, *pair, limits.get(name.removeprefix(BY_NAME))) for name, pair in found.items()]


def colour_shift(moved: Floats) -> Estimate:
    """Length of the mean over prompts of ``moved``, changes of their mean colours [P, 3], in CIELAB units.

    What all pictures have in common: a few units where they were drawn again and nothing else changed. The error is
    along the shift.
    """
    mean = moved.mean(0)
    return _mean(moved @ (mean / (np.linalg.norm(mean) or 1.0)))


def colour_distance(moved: Floats) -> Estimate:
    """Mean over prompts of the length of ``moved``, changes of their mean colours [P, 3], in CIELAB units.

    2.3 is just noticeable in one picture. At temperature 1 two pictures of one prompt differ, trained or not, so this
    has a limit only where a recipe gives it one.
    """
    return _mean(np.linalg.norm(moved, axis=1))


def _mean(values: Floats) -> Estimate:
    return pooled_ratio(values, np.ones(len(values)))


def _colours(results: Sequence[PromptResult]) -> Floats:
    """CIELAB means [P, 3]."""
    table = np.array([[result.shares[BY_NAME + axis] for axis in COLOUR] for result in results], np.float64)
    return table[..., 0] / table[..., 1]


def _shown(name: str) -> bool:
    return name.removeprefix(BY_NAME) not in COLOUR
