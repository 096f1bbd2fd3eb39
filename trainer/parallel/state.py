"""An update and its checkpoint by many ranks: what one process does, with the work shared and every decision global."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from varl.policy.base import TrainablePolicy
from varl.trainer.checkpoints.checkpoint import Restored, TrainedState
from varl.trainer.parallel.mesh import let_go, order_of, spread
from varl.trainer.parallel.ranks import Action, Ranks
from varl.trainer.parallel.shards import write_shards
from varl.trainer.parallel.shares import Pass, passes_of, turns
from varl.trainer.parallel.wire import Head, pack_groups, pack_measured, unpack_groups, unpack_measured
from varl.trainer.recipe.config import Recipe
from varl.trainer.step.batch import GroupBatch
from varl.trainer.step.ema import WeightAverage
from varl.trainer.step.gradients import GradientProbe
from varl.trainer.step.guards import GuardError, Watch
from varl.trainer.step.metrics import Measured
from varl.trainer.step.update import UpdateOutcome, Updater

logger = logging.getLogger("trainer")
IDLE = math.inf  # a loss over so many groups is 0, and so is its gradient


class SharedUpdater(Updater):
    """An update by all ranks.

    Every rank has all groups, so that guards, groups without advantage, the number of groups and the step are decided
    alike everywhere; gradients, losses and what passes saw are added up or exchanged before anything is decided.
    """

    def __init__(self, ranks: Ranks, recipe: Recipe, policy: TrainablePolicy, reference: TrainablePolicy) -> None:
        super().__init__(policy, reference, recipe.objective, recipe.optimizer, recipe.guards)
        self._ranks = ranks

    def update(
        self, groups: Sequence[GroupBatch], update: int, by_scale: bool
    ) -> tuple[UpdateOutcome, dict[str, float]]:
        """As ``Updater.update``, without the gradients' diagnostics, for which a gradient would have to be whole."""
        heads, tensors = pack_groups(groups)
        with self._ranks.together("update", {"groups": heads, "update": update}, **tensors):
            return super().update(groups, update, by_scale=False)

    def _gradients(self, used: Sequence[GroupBatch], watch: Watch, probe: GradientProbe | None) -> list[list[Measured]]:
        passes = passes_of(used, self._settings.candidates_per_pass)
        try:
            mine = self._own_passes(used, passes, watch)
        finally:  # from here on all are parts again: norm, step and averages are of parts
            for policy in (self.policy, self.reference):
                let_go(policy.module)
        found = {k: v for part in self._ranks.exchange(pack_measured(mine)) for k, v in unpack_measured(part).items()}
        return [[found[i] for i, one in enumerate(passes) if one.group == group] for group in range(len(used))]

    def _own_passes(self, used: Sequence[GroupBatch], passes: Sequence[Pass], watch: Watch) -> dict[int, Measured]:
        """Make this rank's passes; returns what those saw that count, by their index."""
        mine, place = dict[int, Measured](), self._ranks.place
        for each in turns([one.tokens for one in passes], place.size):
            turn = each[place.rank]
            one = passes[turn.index]
            measured = self._backward_part(used[one.group], one.rows, len(used) if turn.counts else IDLE, watch)
            if turn.counts:
                mine[turn.index] = measured
        return mine

    def _total(self, value: Tensor) -> Tensor:
        return self._ranks.total(value)


class SharedAverage(WeightAverage):
    """Averages of which each rank holds and moves its part."""

    def __init__(self, ranks: Ranks, module: nn.Module, decay: float) -> None:
        super().__init__(module, decay)
        self._ranks = ranks

    def update(self) -> None:
        """Move every average at every rank."""
        with self._ranks.together("average"):
            super().update()

    def exchange(self) -> None:
        """Let module and averages change places at every rank."""
        with self._ranks.together("exchange"):
            super().exchange()


class SharedState(TrainedState):
    """What all ranks train, whose checkpoints they write and read together."""

    def __init__(self, ranks: Ranks, updater: SharedUpdater, average: SharedAverage | None) -> None:
        super().__init__(updater, average)
        self._ranks = ranks

    def write(self, part: Path) -> None:
        """Write every rank's part."""
        with self._ranks.together("write", {"path": str(part.resolve())}):
            write_shards(part, self.updater, self.average, self._ranks.control)

    def load(self, path: Path) -> Restored:
        """Put a checkpoint in place at every rank."""
        with self._ranks.together("load", {"path": str(path.resolve())}):
            return super().load(path)

    def actions(self) -> dict[str, Action]:
        """What rank 0 may order of the others."""
        modules = {"policy": self.updater.policy.module, "reference": self.updater.reference.module}
        return {
            "update": self._update,
            "write": lambda head, _: self._try_to_write(Path(head["path"])),
            "load": lambda head, _: self.load(Path(head["path"])),
            "average": lambda *_: self.average and self.average.update(),
            "exchange": lambda *_: self.average and self.average.exchange(),
            **{order_of(name): lambda *_, module=module: module.state_dict() for name, module in modules.items()},
        }

    def _update(self, head: Head, tensors: dict[str, Tensor]) -> None:
        try:
            self.updater.update(unpack_groups(head["groups"], tensors), head["update"], by_scale=False)
        except GuardError as error:
            logger.info("rank %d: %s", self._ranks.place.rank, error)  # rank 0 ends the run

    def _try_to_write(self, part: Path) -> None:
        try:
            self.write(part)
        except OSError as error:
            logger.info("rank %d: %s", self._ranks.place.rank, error)  # rank 0 decides what follows


def shared_state(ranks: Ranks, recipe: Recipe, policy: TrainablePolicy, reference: TrainablePolicy) -> SharedState:
    """Spread policy and reference, and make what trains them; all ranks must call this."""
    spread(policy, "policy", ranks, recipe.parallel)
    if reference.module is not policy.module:
        spread(reference, "reference", ranks, recipe.parallel)
    decay = recipe.optimizer.ema_decay
    average = SharedAverage(ranks, policy.module, decay) if decay else None
    return SharedState(ranks, SharedUpdater(ranks, recipe, policy, reference), average)
