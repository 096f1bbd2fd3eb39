"""Truncation, guidance and random streams of the sampler."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from varl.policy.base import SamplingParams
from varl.policy.sampling import guidance, guided, mix, probabilities, sample, uniforms

LOGITS = torch.tensor([0.1, 2.0, 1.0, -1.0, 0.5]).log_softmax(-1)


def test_top_k_keeps_the_k_best() -> None:
    probs = probabilities(LOGITS, SamplingParams(top_k=2))
    assert probs.nonzero().flatten().tolist() == [1, 2]
    assert torch.isclose(probs[1] / probs[2], (LOGITS[1] - LOGITS[2]).exp())


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert probabilities(logits, SamplingParams(top_p=0.79)).nonzero().flatten().tolist() == [0, 1]
    assert probabilities(logits, SamplingParams(top_p=0.81)).nonzero().flatten().tolist() == [0, 1, 2]
    assert probabilities(logits, SamplingParams(top_p=0.01)).tolist() == [1, 0, 0, 0]


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(0, 12), st.floats(0.05, 1.0), st.floats(0.1, 3.0)
)
def test_probabilities_are_a_distribution_that_keeps_the_best(
    values: list[float], top_k: int, top_p: float, temperature: float
) -> None:
    logits = torch.tensor(values)
    probs = probabilities(logits, SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p))
    assert torch.isclose(probs.sum(), torch.tensor(1.0), atol=1e-5)
    assert logits.max() - logits[probs.argmax()] < 1e-6  # closer ones have one probability in float32


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.2, 0.0, 0.5, 0.3])
    sampled = sample(probs.expand(1, 20_000, 4), uniforms([5], 0, 20_000))
    share = torch.bincount(sampled.flatten(), minlength=4) / 20_000
    assert share[1] == 0
    assert torch.allclose(share, probs, atol=0.02)


def test_a_code_without_probability_is_never_drawn_at_the_ends() -> None:
    probs = torch.tensor([0.0, 1.0, 0.0]).expand(1, 2, 3)
    assert sample(probs, torch.tensor([[0.0, 1 - 1e-12]], dtype=torch.float64)).tolist() == [[1, 1]]


def test_guidance_ramps_from_zero_to_cfg() -> None:
    params = SamplingParams(cfg=5.0)
    assert [guidance(params, s, 6) for s in range(6)] == [0, 1, 2, 3, 4, 5]
    assert guidance(SamplingParams(cfg=5.0, cfg_constant=True), 0, 6) == 5
    assert guided(torch.tensor(1.0), torch.tensor(0.5), 2.0) == 2.0


def test_streams_differ_by_seed_and_scale_only() -> None:
    assert torch.equal(uniforms([1, 2], 3, 4)[1], uniforms([2], 3, 4)[0])
    assert len({mix(seed, scale) for seed in range(50) for scale in range(50)}) == 2500


OUT_OF_RANGE: list[tuple[str, float]] = [
    ("temperature", 0.0),
    ("top_k", -1),
    ("top_p", 0.0),
    ("top_p", 1.5),
    ("cfg", -1.0),
]
NOT_FINITE = [(field, value) for field in ("temperature", "top_p", "cfg") for value in (math.nan, math.inf, -math.inf)]


@pytest.mark.parametrize(("field", "value"), OUT_OF_RANGE + NOT_FINITE)
def test_bad_parameters_are_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]
