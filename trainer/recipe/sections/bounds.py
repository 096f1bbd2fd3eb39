"""What every table of a recipe has: unknown keys refused, and the ranges of its numbers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from varl.trajectories.job_checks import MAX_GROUP_SIZE, MAX_RUN_ID_CHARS, RUN_ID

MOST = 10**6  # of updates, prompts and whatever else is counted: more is a slip of the pen, as it is for every factor
Count = Annotated[int, Field(ge=0, le=MOST)]
Number = Annotated[int, Field(ge=1, le=MOST)]
Images = Annotated[int, Field(ge=1, le=MAX_GROUP_SIZE)]  # of one group
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
NonNegative = Annotated[float, Field(ge=0, le=MOST)]
MOST_SMALL_DECAY = 0.99  # AdamW's, with moments in bfloat16: above it they would never move
Decay = Annotated[float, Field(ge=0, lt=1)]
YEAR_S = 366 * 24 * 3600.0
Seconds = Annotated[float, Field(ge=0, le=YEAR_S)]
Minutes = Annotated[float, Field(gt=0, le=YEAR_S / 60)]
Action = Literal["stop", "skip", "off"]
Name = Annotated[str, Field(pattern=RUN_ID, max_length=MAX_RUN_ID_CHARS)]


class Section(BaseModel):
    """One table of the recipe; an unknown key is an error, and so is a number that is not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
