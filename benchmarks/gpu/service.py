"""HPSv3's service in this process, without its ports: checks, decoding, batches by cost, and a model beside them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import inference_mode

from benchmarks.gpu.hpsv3 import token_ids
from varl.services.hpsv3.engine import Preference
from varl.services.hpsv3.model import RewardModel
from varl.services.hpsv3.native import NativeItem
from varl.services.hpsv3.preprocess import resize
from varl.services.hpsv3.scorer import HPSv3Scorer
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.serving.scoring import ModelInfo, Pixels, RawSample, SampleError, SampleScore, ScoreBatch
from varl.services.serving.service import ScoringService


class RandomEngine:
    """The native engine's work with random weights: they need no tokenizer and no wording."""

    model = ModelInfo("hpsv3-random", "random", "0")

    def __init__(self, model: RewardModel) -> None:
        self._model = model

    def refusal(self, prompt: str) -> SampleError | None:
        """None is refused."""
        return None

    def prepare(self, pixels: Pixels, prompt: str) -> NativeItem:
        """Resized, with a sequence as long as a real one."""
        image = resize(pixels)
        return NativeItem(image, token_ids(image))

    def score(self, items: Sequence[NativeItem]) -> list[Preference]:
        """One forward."""
        with inference_mode():
            answers = self._model([item.image for item in items], [item.token_ids for item in items])
            return [Preference(*row) for row in answers.tolist()]


def service_of(model: RewardModel, batch: int) -> ScoringService:
    """Not started yet."""
    settings = HPSv3Settings.model_validate(
        {"hub": True, "max_batch": batch, "max_decoded": 4 * batch, "log_level": "error", "decode_threads": 8}
    )
    engine = RandomEngine(model)
    limits = settings.batch_limits(batch)
    return ScoringService(settings, HPSv3Scorer(lambda: engine, limits, settings.decode_threads, "bfloat16", None))


async def images_a_second(model: RewardModel, files: Sequence[bytes], batch: int, count: int) -> tuple[float, int]:
    """Of ``count`` files in one request, and how many of them have no score."""
    service = service_of(model, batch)
    await service.start()
    samples = tuple(RawSample(str(index), "a prompt", files[index % len(files)]) for index in range(count))
    began = time.perf_counter()
    outcomes = (await service.score(ScoreBatch(samples))).outcomes
    seconds = time.perf_counter() - began
    await service.close()
    return count / seconds, sum(not isinstance(one, SampleScore) for one in outcomes)
