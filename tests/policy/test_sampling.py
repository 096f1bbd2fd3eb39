"""Truncation, guidance and random streams of the sampler."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.plain_sampling import probabilities, sample
from varl.policy.base import SamplingParams
from varl.policy.sampling import choices, counted, draw, guidance, guided, mix, uniforms

LOGITS = torch.tensor([0.1, 2.0, 1.0, -1.0, 0.5]).log_softmax(-1)


def weights(logits: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """What ``choices`` gives, over all codes, summing to 1."""
    found, codes = choices(logits, params)
    whole = found if codes is None else torch.zeros_like(logits).scatter(-1, codes, found)
    return whole / whole.sum(-1, keepdim=True)


def test_top_k_keeps_the_k_best() -> None:
    probs = weights(LOGITS, SamplingParams(top_k=2))
    assert probs.nonzero().flatten().tolist() == [1, 2]
    assert torch.isclose(probs[1] / probs[2], (LOGITS[1] - LOGITS[2]).exp())


@pytest.mark.parametrize("few", [1, 1024], ids=["searched", "sorted"])
def test_top_p_keeps_the_smallest_sufficient_set(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varl.policy.sampling.FEW", few)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert weights(logits, SamplingParams(top_p=0.79)).nonzero().flatten().tolist() == [0, 1]
    assert weights(logits, SamplingParams(top_p=0.81)).nonzero().flatten().tolist() == [0, 1, 2]
    assert weights(logits, SamplingParams(top_p=0.01)).tolist() == [1, 0, 0, 0]


@given(
    st.lists(st.floats(-5, 5), min_size=2, max_size=12), st.integers(0, 12), st.floats(0.05, 1.0), st.floats(0.1, 3.0)
)
def test_weights_are_a_distribution_that_keeps_the_best(
    values: list[float], top_k: int, top_p: float, temperature: float
) -> None:
    logits = torch.tensor(values)
    probs = weights(logits, SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p))
    assert torch.isclose(probs.sum(), torch.tensor(1.0), atol=1e-5)
    assert logits.max() - logits[probs.argmax()] < 1e-6  # closer ones have one probability in float32


@pytest.mark.parametrize("codes", [5, 1000, 3000])
@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.6),
        SamplingParams(top_k=1),
        SamplingParams(top_k=2, top_p=0.9),
        SamplingParams(top_k=900, top_p=0.8, temperature=1.7),
        SamplingParams(top_p=0.7),
    ],
    ids=str,
)
def test_a_draw_is_that_of_the_whole_codebook(codes: int, params: SamplingParams) -> None:
    logits = 3 * torch.randn(4, 50, codes, generator=torch.Generator().manual_seed(1))
    found, kept = choices(logits, params)
    numbers = uniforms([1, 2, 3, 4], 0, 50)
    tokens = draw(found, numbers[..., None])
    tokens = tokens if kept is None else kept.gather(-1, tokens)
    assert torch.equal(tokens[..., 0], sample(probabilities(logits, params), numbers))


def test_several_candidates_of_a_row_draw_as_each_alone() -> None:
    probs = torch.rand(3, 2000, generator=torch.Generator().manual_seed(2))
    numbers = uniforms([1, 2, 3], 0, 4)
    assert torch.equal(draw(probs, numbers), torch.cat([draw(probs, numbers[:, [i]]) for i in range(4)], 1))


def test_draws_follow_the_distribution() -> None:
    probs = torch.tensor([0.2, 0.0, 0.5, 0.3])
    sampled = draw(probs.expand(1, 4), uniforms([5], 0, 20_000))
    share = torch.bincount(sampled.flatten(), minlength=4) / 20_000
    assert share[1] == 0
    assert torch.allclose(share, probs, atol=0.02)


@pytest.mark.parametrize("codes", [3, 2100])
def test_a_code_without_weight_is_never_drawn_at_the_ends(codes: int) -> None:
    probs = torch.zeros(2, codes)
    probs[:, codes // 2] = 1 / 3
    ends = torch.tensor([[0.0], [1 - 2**-53]], dtype=torch.float64)
    assert draw(probs, ends).flatten().tolist() == [codes // 2] * 2


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(top_k=3, top_p=0.9)], ids=str)
@pytest.mark.parametrize("codes", [5, 2100])
def test_a_policy_that_has_diverged_draws_codes_that_exist(codes: int, params: SamplingParams) -> None:
    found, kept = choices(torch.full((2, codes), math.nan), params)
    tokens = draw(found, torch.rand(2, 1, dtype=torch.float64))
    tokens = tokens if kept is None else kept.gather(-1, tokens)
    assert int(tokens.min()) >= 0 and int(tokens.max()) < codes


def test_guidance_ramps_from_zero_to_cfg() -> None:
    params = SamplingParams(cfg=5.0)
    assert [guidance(params, s, 6) for s in range(6)] == [0, 1, 2, 3, 4, 5]
    assert guidance(SamplingParams(cfg=5.0, cfg_constant=True), 0, 6) == 5
    assert guided(torch.tensor(1.0), torch.tensor(0.5), 2.0) == 2.0


def test_streams_differ_by_seed_and_scale_only() -> None:
    assert torch.equal(uniforms([1, 2], 3, 4)[1], uniforms([2], 3, 4)[0])
    assert len({mix(seed, scale) for seed in range(50) for scale in range(50)}) == 2500


def test_numbers_of_a_device_are_the_published_stream() -> None:
    keys = [0, 7, 2**63 + 5, 2**64 - 1]
    found = counted(keys, 5, torch.device("cpu"))
    gamma = 0x9E3779B97F4A7C15
    expected = [[(mix((key + j * gamma) % 2**64, 0) >> 11) / 2**53 for j in range(5)] for key in keys]
    assert found.tolist() == expected
    assert found.dtype == torch.float64 and found.min() >= 0 and found.max() < 1
    assert torch.equal(counted(keys[2:3], 5, torch.device("cpu"))[0], found[2])
    assert abs(float(counted([3], 100_000, torch.device("cpu")).mean()) - 0.5) < 0.005


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
