"""What the config.json of a model directory is read by and written from, whatever the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

# Bounds of sizes, far above any model's: more is a slip of the pen or a file that means harm.
Size = Annotated[int, Field(ge=1, le=2**20)]  # of a width, a vocabulary, a codebook
Depth = Annotated[int, Field(ge=1, le=1024)]  # of layers, heads, scales
Factor = Annotated[float, Field(gt=0, le=1e9)]


class Frozen(BaseModel):
    """Sizes that do not change; a name that is not one of them is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
