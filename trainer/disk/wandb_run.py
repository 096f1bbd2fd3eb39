"""A run's metrics in Weights & Biases, beside TensorBoard's: the setting ``metrics.wandb``, the extra ``wandb``.

Where and as whom is what wandb itself reads: WANDB_MODE (online, or offline for a later ``wandb sync``), WANDB_API_KEY,
WANDB_ENTITY, WANDB_BASE_URL.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from varl.trainer.disk.atomic import write_durably
from varl.trainer.recipe.config import Recipe

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger("trainer")
PACKAGE = "wandb"
PLACE_FILE = "wandb.json"
REPORT_KEY = "report"
# Redis's address may hold a password, and is of no use elsewhere.
PRIVATE = {"redis_url", "redis_password_file", "redis_ca_file", "redis_cert_file", "redis_key_file"}
NOT_INSTALLED = "metrics.wandb: the package wandb is not installed: pip install 'varl[wandb]'"


class WandbError(ValueError):
    """The run that the recipe asks for cannot be begun; the message says what wandb said."""


class Place(BaseModel):
    """Where a run is kept: a resumed run and its report go on with the same one. url: empty while offline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    url: str = ""


def is_installed() -> bool:
    """Whether the package is here; a folder named wandb, which it leaves where it runs, is none."""
    try:
        return bool(version(PACKAGE))
    except PackageNotFoundError:
        return False


def read_place(directory: Path) -> Place | None:
    """Where the run of a directory is kept; None: nowhere, or the file is damaged."""
    try:
        return Place.model_validate_json((directory / PLACE_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


class WandbRun:
    """A run in Weights & Biases with the resolved recipe as its config; ``directory`` keeps which one it is.

    Updates are the steps of its curves. What is refused while it runs is in the log, and metrics.jsonl has it.

    Raises:
        WandbError: wandb refuses to begin, for example without a key.
    """

    def __init__(self, recipe: Recipe, directory: Path) -> None:
        place = read_place(directory) or Place(id=secrets.token_hex(8))
        directory.mkdir(parents=True, exist_ok=True)
        self._run = _begin(recipe, directory, place.id)
        self._run.define_metric("*", step_metric="update")  # a resumed run says some updates again
        found = Place(id=place.id, url=self._run.url or "")
        write_durably(directory / PLACE_FILE, found.model_dump_json())

    def add(self, update: int, metrics: Mapping[str, float]) -> None:
        """Add the metrics of an update."""
        self._try(f"update {update}", lambda: self._run.log({"update": update, **metrics}))

    def add_report(self, report: Path) -> None:
        """Add a run's report.html as a page that W&B shows."""
        import wandb

        self._try(str(report), lambda: self._run.log({REPORT_KEY: wandb.Html(str(report), inject=False)}))

    def close(self) -> None:
        """Send what is left."""
        self._try("the end of the run", self._run.finish)

    def _try(self, what: str, act: Callable[[], object]) -> None:
        import wandb

        try:
            act()
        except (wandb.Error, OSError) as error:
            logger.warning("%s could not be given to Weights & Biases: %s", what, error)


def add_report(recipe: Recipe, directory: Path, report: Path) -> None:
    """Add the report to the run in Weights & Biases where the recipe asks for one; a refusal is in the log.

    Its run is over by then, so it is opened again.
    """
    if not recipe.metrics.wandb:
        return
    try:
        run = WandbRun(recipe, directory)
    except WandbError as error:
        logger.warning("%s is not in Weights & Biases: %s", report, error)
        return
    run.add_report(report)
    run.close()


def _begin(recipe: Recipe, directory: Path, run_id: str) -> wandb.Run:
    if not is_installed():
        raise WandbError(NOT_INSTALLED)
    import wandb

    try:
        return wandb.init(
            project=recipe.metrics.wandb,
            name=recipe.run.name,
            id=run_id,
            resume="allow",
            dir=str(directory),
            config=recipe.model_dump(mode="json", exclude={"rollout": PRIVATE}),
            settings=wandb.Settings(console="off", silent=True),
        )
    except (wandb.Error, OSError) as error:
        raise WandbError(f"metrics.wandb: {error}") from error
