"""A vision-language model as the judge of images, through ``varl.reward``.

``VARL_JUDGE_URL=http://127.0.0.1:8000/v1 VARL_JUDGE_MODEL=… varl serve judge`` serves it. At the start it is asked
about one picture with the text of it and with another one: a server that drops pictures or questions, or a model that
says the same to everything, is refused there.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from varl.reward import ErrorCode, Reward, Sample, SampleError, Score
from varl.services.judge.answers import NoQuestionError, NoScoreError, question, score
from varl.services.judge.client import ChatClient, NoAnswerError
from varl.services.judge.settings import JudgeSettings


class Judge(Reward):
    """The judge's number for each image, in [0, 1]; a question that is not answered by one is an error."""

    name = "judge"
    batch_size = 64

    def settings(self) -> JudgeSettings:
        """Where and what to ask; raises ValueError where a setting is missing or wrong."""
        return JudgeSettings()  # type: ignore[call-arg] # from the environment

    def canary(self) -> tuple[Sample, Sample]:
        """Two samples, the first of which must score higher. Override it where the question needs metadata."""
        picture = _red_square()
        right, wrong = "a red square on a white background", "a photo of two black cats in the snow at night"
        return Sample(right, picture, ("red",)), Sample(wrong, picture, ("cats",))

    def load(self, device: str) -> None:
        """Read the settings and ask the canary's questions; raises ValueError where their answers do not differ."""
        self._settings = self.settings()
        self._template = self._settings.question()
        self._client = ChatClient(self._settings)
        self._threads = ThreadPoolExecutor(self._settings.parallel, "varl-judge")
        self.revision = self._settings.model
        self._prove(*self.score(self.canary()))

    def golden(self) -> Sample:
        """The canary's better sample."""
        return self.canary()[0]

    def score(self, samples: Sequence[Sample]) -> Sequence[Score | SampleError]:
        """Ask about all of them at a time."""
        return list(self._threads.map(self._score, samples))

    def _score(self, sample: Sample) -> Score | SampleError:
        settings = self._settings
        try:
            asked = question(self._template, sample)
            return Score(score(self._client.ask(sample, asked), settings.key, settings.low, settings.high))
        except NoQuestionError as error:
            return SampleError(ErrorCode.INVALID_FIELD, str(error))
        except (NoAnswerError, NoScoreError) as error:
            return SampleError(ErrorCode.ENGINE_FAILED, f"the judge: {error}")

    def _prove(self, better: Score | SampleError, worse: Score | SampleError) -> None:
        for found in (better, worse):
            if isinstance(found, SampleError):
                raise ValueError(f"the canary's question has no score: {found.detail}")
        assert isinstance(better, Score) and isinstance(worse, Score)  # noqa: S101
        if not better.value > worse.value:
            detail = f"{better.value:g} for the text of a picture and {worse.value:g} for another text"
            raise ValueError(f"the judge gives {detail}: it looks at the picture or at the question, not at both")


def _red_square() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 [224, 224, 3]."""
    picture = np.full((224, 224, 3), 255, np.uint8)
    picture[56:168, 56:168] = (220, 20, 30)
    return picture
