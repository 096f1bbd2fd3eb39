"""A reward's answers become outcomes.

A sound one as it is, anything else a typed error, and none of them a number that nobody gave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from varl.metadata import MAX_BYTES, MetadataError, check_metadata, from_struct, to_struct
from varl.reward import ErrorCode, Region, Reward, Sample, SampleError, Score
from varl.services.reward.load import load_reward
from varl.services.reward.place import RewardNotFoundError
from varl.services.serving.batching.queue import BatchLimits, ItemFailedError, WrongLengthError
from varl.services.serving.plugin import RewardScorer, outcome
from varl.services.serving.scoring import StartError

DIGEST = sha256(Path(__file__).read_bytes()).hexdigest()[:16]
LEFT = (0.0, 0.0, 4.0, 0.0, 4.0, 8.0)


@pytest.mark.parametrize(
    "answer", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5]), Score(0.5)]
)
def test_any_number_is_a_score(answer: object) -> None:
    assert outcome(answer) == Score(0.5)


def test_components_and_regions_stay() -> None:
    answer = Score(1, {"sharp": np.float64(0.25)}, regions=(Region(np.array(LEFT), "left"),))  # type: ignore[arg-type] # as users do
    assert outcome(answer) == Score(1.0, {"sharp": 0.25}, regions=(Region(LEFT, "left"),))
    assert outcome(SampleError(ErrorCode.NO_TARGET, "no words")) == SampleError(ErrorCode.NO_TARGET, "no words")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "NoneType"),
        ("0.5", "str"),
        ([0.5], "list"),
        (1j, "complex"),
        (torch.zeros(2), "Tensor"),
        (Score(0.5, {"x": "y"}), "component 'x'"),  # type: ignore[dict-item]
        (Score(0.5, regions=(Region(LEFT[:4]),)), "4 numbers"),
        (Score(0.5, regions=(Region((*LEFT[:5], float("nan"))),)), "not finite"),
        (Score(0.5, regions=(LEFT,)), "polygon"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_score_is_an_error_that_says_so(answer: object, says: str) -> None:
    found = outcome(answer)
    assert isinstance(found, SampleError)
    assert found.code is ErrorCode.ENGINE_FAILED
    assert says in found.detail


@pytest.mark.parametrize(
    "answer", [float("nan"), float("inf"), torch.tensor(float("nan")), Score(0.0, {"x": float("-inf")})]
)
def test_what_is_not_finite_is_an_error(answer: object) -> None:
    found = outcome(answer)
    assert isinstance(found, SampleError)
    assert found.code is ErrorCode.NOT_FINITE


class Odd(Reward):
    """Does what the prompt says."""

    name = "odd"

    def score(self, samples: Sequence[Sample]) -> list[Any]:
        if any(sample.prompt == "raise" for sample in samples):
            raise KeyError("secret")
        return [0.5] * (len(samples) + any(sample.prompt == "longer" for sample in samples))


async def test_an_exception_and_a_wrong_length_are_typed() -> None:
    scorer = RewardScorer(Odd, "cpu", BatchLimits(4))
    await scorer.start()
    sample = Odd().golden()
    assert await scorer.score(sample, "") == Score(0.5)
    with pytest.raises(ItemFailedError, match="KeyError"):
        await scorer.score(replace(sample, prompt="raise"), "")
    with pytest.raises(WrongLengthError, match="2 answers to 1"):
        await scorer.score(replace(sample, prompt="longer"), "")
    assert scorer.model.name.endswith(":Odd")
    assert scorer.model.revision == DIGEST
    await scorer.close()


class NoWeights(Odd):
    """Cannot load."""

    def load(self, device: str) -> None:
        raise FileNotFoundError(f"weights for {device}")


class NeedsMore(Odd):
    """Cannot score the golden sample."""

    def score(self, samples: Sequence[Sample]) -> list[Any]:
        return [sample.metadata["answer"] for sample in samples]


@pytest.mark.parametrize(
    ("kind", "says"), [(NoWeights, "load failed.*weights for cuda:7"), (NeedsMore, "golden sample.*KeyError")]
)
async def test_a_reward_that_fails_at_the_start_says_how(kind: type[Reward], says: str) -> None:
    scorer = RewardScorer(kind, "cuda:7", BatchLimits(4))
    with pytest.raises(StartError, match=f"{kind.__name__}: .*{says}"):
        await scorer.start()
    await scorer.close()


BROKEN = """
from varl.reward import Reward
class Good(Reward):
    name = "good"
    def score(self, samples): return [0.0 for _ in samples]
class Nameless(Reward):
    def score(self, samples): return []
class Scoreless(Reward):
    name = "scoreless"
"""


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("{file}:Goood", "did you mean Good"),
        ("{file}:Nameless", "name is None"),
        ("{file}:Scoreless", "no method score"),
        ("{file}:Path", "no class 'Path'"),
        ("{file}", "want PATH.py:Class"),
        ("nowhere.py:Good", "there is no file nowhere.py"),
        ("no.such.package:Good", "there is no module"),
        ("json:dumps", "no subclass"),
    ],
)
def test_a_class_that_is_not_there_is_said(tmp_path: Path, place: str, says: str) -> None:
    file = tmp_path / "broken_rewards.py"
    file.write_text(BROKEN)
    with pytest.raises(RewardNotFoundError, match=says):
        load_reward(place.format(file=file))
    assert load_reward(f"{file}:Good").name == "good"


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels > 1 else {}


def test_metadata_survives_the_wire_within_its_bounds() -> None:
    given = {"a": [1, 2.5, None, True, "ä"], "b": nested(7), "numbers": [1] * (MAX_BYTES // 2 - 100)}
    assert from_struct(to_struct(given)) == given


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ([1], "want an object"),
        (nested(9), "more than 8 deep"),
        ({"a": "x" * MAX_BYTES}, "at most 16384"),
        ({"a": float("nan")}, "no JSON"),
        ({"a": 10**400}, "too large"),
        ({"a": b"x"}, "no JSON"),
    ],
)
def test_metadata_out_of_bounds_is_refused_by_name(metadata: object, says: str) -> None:
    with pytest.raises(MetadataError, match=f"^metadata: .*{says}"):
        check_metadata(metadata)
