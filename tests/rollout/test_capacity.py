"""How many sequences fit, against the memory that a sampler really takes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.support.infinity_models import SQUARE, random_policy
from varl.policy.base import SamplingParams, TrainablePolicy
from varl.policy.ledger import held_bytes
from varl.policy.nextflow import build_random
from varl.services.rollout import capacity as module
from varl.services.rollout.capacity import batches, capacity
from varl.services.rollout.generation import Limits
from varl.services.rollout.settings import RolloutServiceSettings


@pytest.fixture(scope="module", params=["nextflow", "infinity"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainablePolicy, Path]:
    policy = build_random() if request.param == "nextflow" else random_policy(SQUARE)
    folder = tmp_path_factory.mktemp(request.param)
    policy.save(folder)
    return policy, folder


def settings_of(folder: Path, **more: object) -> RolloutServiceSettings:
    fields = {"redis_url": "redis://nowhere", "run_id": "r", "model_dir": folder, "reward": {"ocr": "nowhere:1"}}
    return RolloutServiceSettings.model_validate(fields | more)


def held(policy: TrainablePolicy, count: int, cfg: float) -> int:
    params = SamplingParams(cfg=cfg)
    return held_bytes(policy.sample(policy.prefill("x" * 40, cfg > 0), len(policy.grids), [0] * count, params)[0])


def test_a_sequence_counts_at_least_what_a_real_sampler_holds_of_it(model: tuple[TrainablePolicy, Path]) -> None:
    policy, folder = model
    found = capacity(folder, "float32", 2**30)
    for cfg, counted in ((0.0, found.plain_bytes), (1.0, found.guided_bytes)):
        kept = held(policy, 3, cfg) - held(policy, 2, cfg)
        assert kept <= counted <= 40 * kept
    assert found.plain_bytes < found.guided_bytes and found.plain > found.guided > 0


def test_twice_the_room_holds_twice_the_sequences(model: tuple[TrainablePolicy, Path]) -> None:
    small, large = (capacity(model[1], "float32", room) for room in (2**26, 2**27))
    assert large.plain == pytest.approx(2 * small.plain, rel=0.1)
    with pytest.raises(ValueError, match="not even one sequence fits"):
        capacity(model[1], "float32", 1000)


def test_a_worker_samples_as_many_as_fit_and_says_so(
    model: tuple[TrainablePolicy, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = 5 * capacity(model[1], "float32", 2**30).plain_bytes
    monkeypatch.setattr(module, "usable_memory", lambda device, share: room)
    with caplog.at_level(logging.INFO, "varl.rollout"):
        plain, guided = batches(settings_of(model[1]))
    assert 1 <= guided < plain <= 5 and f"fit {plain} sequences" in caplog.text
    assert batches(settings_of(model[1], sample_batch=1)) == (1, 1)
    assert batches(settings_of(model[1], plugin="some.module:load")) == (64, 64)
    limits = Limits(plain, 8, guided=guided)
    assert [limits.together(SamplingParams(cfg=cfg)) for cfg in (0.0, 1.0)] == [plain, guided]


def test_on_a_cpu_nothing_is_measured(model: tuple[TrainablePolicy, Path]) -> None:
    assert batches(settings_of(model[1], sample_batch=7)) == (7, 7)
