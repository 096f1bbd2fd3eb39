"""Flags of ``python -m chaos``."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from chaos.schedule import QUIET_AT_THE_END, USUAL, Kind


class ChaosSettings(BaseSettings):
    """Trains a small policy twice, without and with deliberate faults, and compares the second run with the first."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, cli_prog_name="python -m chaos", cli_kebab_case=True, cli_hide_none_type=True
    )

    seed: NonNegativeInt = Field(default=0, description="Seed of the schedule and of both runs.")
    faults: PositiveInt = Field(default=60, description="Number of faults.")
    updates: int = Field(default=60, gt=QUIET_AT_THE_END, description="Updates of each run.")
    kinds: str = Field(
        default="", description="Kinds of faults to choose from, with commas in between; default: all but deadly_job."
    )
    out: Path | None = Field(
        default=None, description="Folder of everything that is left; default: runs/chaos/<date and time>."
    )

    @model_validator(mode="after")
    def _kinds_are_known(self) -> Self:
        self.chosen()
        return self

    def chosen(self) -> tuple[Kind, ...]:
        """The kinds asked for, each once. Raises ValueError on an unknown one."""
        names = [name.strip() for name in self.kinds.split(",") if name.strip()]
        unknown = sorted(set(names) - set(Kind))
        if unknown:
            raise ValueError(f"kinds: {', '.join(unknown)} unknown; there are {', '.join(Kind)}")
        return tuple(kind for kind in Kind if kind in names) or USUAL
