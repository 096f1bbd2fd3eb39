"""What a judge is asked, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from varl.services.serving.settings import MOST, Count, Seconds

QUESTION = """\
This picture was made from the text: $prompt

How well does it show what the text says? Answer with JSON alone: {"score": N}, where N is a number from 0 (nothing of
it) to 10 (all of it)."""


class JudgeSettings(BaseSettings):
    """From VARL_JUDGE_…; a subclass of the reward may give its own instead."""

    model_config = SettingsConfigDict(env_prefix="VARL_JUDGE_", frozen=True, allow_inf_nan=False)

    url: str = Field(description="Base URL of the server, such as http://127.0.0.1:8000/v1.")
    model: str = Field(description="Name of the model there.")
    key_file: Path | None = Field(None, description="File with the server's API key.")
    question_file: Path | None = Field(
        None, description="Template of the question; default: agreement with the prompt."
    )
    key: str = Field("score", description="Key of the number in the JSON of the answer.")
    low: float = Field(0.0, ge=-MOST, le=MOST, description="Number of the worst answer, which becomes 0.")
    high: float = Field(10.0, ge=-MOST, le=MOST, description="Number of the best answer, which becomes 1.")
    max_tokens: Count = Field(256, description="Tokens of an answer.")
    seconds: Seconds = Field(120.0, gt=0, description="Longest time for one question, tries included.")
    tries: Count = Field(3, description="Times that a question is asked where the server is busy or away.")
    parallel: Count = Field(16, description="Questions asked at a time.")

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self

    def question(self) -> str:
        """The template; raises OSError where its file cannot be read."""
        return QUESTION if self.question_file is None else self.question_file.read_text(encoding="utf-8")

    def api_key(self) -> str:
        """The key, "" for none; raises OSError where its file cannot be read."""
        return "" if self.key_file is None else self.key_file.read_text(encoding="utf-8").strip()
