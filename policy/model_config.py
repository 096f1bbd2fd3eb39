"""What the config.json of a model directory is read by and written from, whatever the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Sizes that do not change; a name that is not one of them is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Frozen):
    """A whole model's sizes; a subclass says which, the first one its ``architecture``."""

    @classmethod
    def read(cls, model_dir: Path) -> Self:
        """Read config.json of a model directory.

        Raises:
            ValueError: it is not JSON or not of this model; the message names the fields.
            OSError: it cannot be read.
        """
        return cls.model_validate_json((model_dir / "config.json").read_text(encoding="utf-8"))

    def write(self, model_dir: Path) -> None:
        """Write config.json into a model directory, which is made if need be."""
        model_dir.mkdir(parents=True, exist_ok=True)
        (model_dir / "config.json").write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
