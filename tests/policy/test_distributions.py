"""Distributions by slices against the plain formulas, values and gradients, and how much memory they take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from varl.policy import distributions
from varl.policy.base import TokenDistribution
from varl.policy.distributions import Bitwise, Categorical, Guidance, pack_bits, unpack_bits

B, N, DIM, V = 2, 37, 6, 50


@pytest.fixture(params=[1, 7 * V, 2**23], ids=["a site a slice", "slices", "one slice"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "SLICE", request.param)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def naive(logits: Tensor, tokens: Tensor, reference: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the trainer had it: whole log-softmaxes."""
    log_p, log_q = logits.log_softmax(-1), reference.log_softmax(-1)
    picked = [one.gather(-1, tokens[..., None]).squeeze(-1) for one in (log_p, log_q)]
    return picked[0], picked[1], (log_p.exp() * (log_p - log_q)).sum(-1), -(log_p.exp() * log_p).sum(-1)


def weighted(parts: tuple[Tensor, ...]) -> Tensor:
    """A loss that asks a different gradient of each part and site."""
    return torch.stack([(normal(90 + index, *part.shape) * part).sum() for index, part in enumerate(parts)]).sum()


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("sharp", [False, True])
def test_slices_have_the_values_and_gradients_of_the_whole(sharp: bool) -> None:
    leaves = [normal(1, B, N, DIM), normal(2, V, DIM), normal(3, V), normal(4, B, N, DIM), normal(5, B, N, DIM)]
    hidden, weight, bias, unconditional, other = (leaf.requires_grad_() for leaf in leaves)
    tokens, strength = torch.randint(V, (B, N), generator=torch.Generator().manual_seed(6)), torch.linspace(0, 2, N)
    guide, temperature = (Guidance(unconditional, strength), 1.7) if sharp else (None, 1.0)
    reference = Categorical(other, weight, bias)
    logits = hidden @ weight.T + bias
    if sharp:
        logits = (
            (1 + strength[:, None]) * logits - strength[:, None] * (unconditional @ weight.T + bias)
        ) / temperature
    expected = naive(logits, tokens, other @ weight.T + bias)
    found = Categorical(hidden, weight, bias, temperature, guide)
    wanted = leaves if sharp else [*leaves[:3], other]
    gradients = torch.autograd.grad(weighted(expected), wanted)
    for parts in (
        tuple(vars(found.evaluate(tokens, reference)).values()),
        (found.log_prob(tokens), reference.log_prob(tokens), found.kl(reference), found.entropy()),
    ):
        assert all(torch.allclose(one, two, atol=5e-6) for one, two in zip(parts, expected, strict=True))
        for one, two in zip(torch.autograd.grad(weighted(parts), wanted), gradients, strict=True):
            assert (one - two).abs().max() <= 1e-6 * max(1, float(two.abs().max()))
    assert torch.allclose(found.logits(), logits, atol=1e-6)


@pytest.mark.usefixtures("slices")
def test_gradients_can_be_taken_scale_by_scale() -> None:
    logits = normal(1, B, N, V).requires_grad_()
    tokens = torch.zeros(B, N, dtype=torch.long)
    values = Categorical(logits).log_prob(tokens)
    parts = [
        torch.autograd.grad(part.sum(), logits, retain_graph=True)[0] for part in values.split_with_sizes([10, 27], 1)
    ]
    assert torch.allclose(parts[0] + parts[1], torch.autograd.grad(values.sum(), logits)[0])
    assert parts[0][:, 10:].abs().max() == 0 < parts[1][:, 10:].abs().max()


class LargestTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sizes, in elements, of the results of every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        self.sizes += [
            one.numel() for one in (out if isinstance(out, tuple | list) else (out,)) if isinstance(one, Tensor)
        ]
        return out


@contextmanager
def recorded() -> Iterator[LargestTensors]:
    with LargestTensors() as mode:
        yield mode


def test_no_tensor_of_all_sites_by_all_codes_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    sites, codes, dim = 512, 1024, 8
    monkeypatch.setattr(distributions, "SLICE", 16 * codes)
    hidden, weight, other = (
        normal(1, 1, sites, dim).requires_grad_(),
        normal(2, codes, dim).requires_grad_(),
        normal(3, codes, dim),
    )
    tokens = torch.randint(codes, (1, sites))
    with recorded() as mode:
        result = Categorical(hidden, weight).evaluate(tokens, Categorical(hidden.detach(), other))
        (result.log_probs + result.kl).sum().backward()  # type: ignore[no-untyped-call]
    assert max(mode.sizes) == 16 * codes < sites * codes / 16
    with recorded() as mode:
        weighted(naive(hidden @ weight.T, tokens, hidden @ other.T))
    assert max(mode.sizes) == sites * codes  # the recorder sees what it should


def test_no_tensor_of_all_sites_by_all_bits_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    sites, dim = 4096, 4
    monkeypatch.setattr(distributions, "SLICE", 64 * 16 * BITS)
    hidden, head = normal(1, 1, sites, dim).requires_grad_(), (normal(2, 2 * BITS, dim), normal(3, 2 * BITS))
    tokens = torch.randint(2**BITS, (1, sites))
    with recorded() as mode:
        found = Bitwise(hidden, head=head).evaluate(tokens, Bitwise(hidden.detach() + 1, head=head))
        (found.log_probs + found.kl).sum().backward()  # type: ignore[no-untyped-call]
    assert max(mode.sizes) == sites * dim < sites * BITS


BITS = 5


def whole(odds: Tensor) -> Tensor:
    """Logits [..., 2^bits] of all tokens from the log-odds [..., bits] of each bit, by loops."""
    rows = [
        sum((odds[..., j] * (token >> j & 1) for j in range(odds.shape[-1])), torch.zeros(odds.shape[:-1]))
        for token in range(2**BITS)
    ]
    return torch.stack(rows, -1)


@pytest.mark.parametrize(("pairs", "sharp"), list(product([False, True], [False, True])))
def test_bits_are_a_categorical_over_all_their_values(pairs: bool, sharp: bool) -> None:
    odds, other, unconditional = (normal(seed, B, N, BITS).requires_grad_() for seed in (1, 2, 3))
    tokens, strength = torch.randint(2**BITS, (B, N)), torch.linspace(0, 2, N)
    given = torch.stack([torch.zeros_like(odds), odds], -1) if pairs else odds
    found = Bitwise(given, 0.6, Guidance(unconditional, strength)) if sharp else Bitwise(given)
    sampled_from = ((1 + strength[:, None]) * odds - strength[:, None] * unconditional) / 0.6 if sharp else odds
    expected = naive(whole(sampled_from), tokens, whole(other))
    parts = tuple(vars(found.evaluate(tokens, Bitwise(other))).values())
    assert all(torch.allclose(one, two, atol=2e-5) for one, two in zip(parts, expected, strict=True))
    for one, two in zip(
        *(torch.autograd.grad(weighted(side), [odds, other]) for side in (parts, expected)), strict=True
    ):
        assert torch.allclose(one, two, atol=2e-5)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("sharp", [False, True])
def test_a_head_of_bits_in_slices_has_the_values_and_gradients_of_whole_logits(sharp: bool) -> None:
    leaves = [normal(1, B, N, DIM), normal(2, 2 * BITS, DIM), normal(3, 2 * BITS), normal(4, B, N, DIM)]
    hidden, weight, bias, unconditional = (leaf.requires_grad_() for leaf in leaves)
    tokens, other = torch.randint(2**BITS, (B, N)), normal(5, B, N, DIM)
    strength, reference = torch.linspace(0, 2, N), Bitwise(other, head=(weight, bias))
    sides = []
    for fused in (True, False):
        made = [(one @ weight.T + bias).view(*one.shape[:-1], BITS, 2) for one in (hidden, unconditional)]
        pairs = [hidden, unconditional] if fused else made
        guide, head = Guidance(pairs[1], strength) if sharp else None, (weight, bias) if fused else None
        sides.append(Bitwise(pairs[0], 0.6 if sharp else 1.0, guide, head).evaluate(tokens, reference))
    parts, expected = (tuple(vars(side).values()) for side in sides)
    assert all(torch.allclose(one, two, atol=1e-5) for one, two in zip(parts, expected, strict=True))
    wanted = leaves if sharp else leaves[:3]
    for one, two in zip(*(torch.autograd.grad(weighted(side), wanted) for side in (parts, expected)), strict=True):
        assert torch.allclose(one, two, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bits", [1, 16, 32, 63, 64])
def test_bits_are_packed_little_endian_and_back(bits: int) -> None:
    ones = torch.rand(50, bits, generator=torch.Generator().manual_seed(0)) < 0.5
    tokens = pack_bits(ones)
    assert torch.equal(unpack_bits(tokens, bits), ones)
    by_hand = [sum(1 << j for j in range(bits) if row[j]) for row in ones.tolist()]
    assert [token % 2**64 for token in tokens.tolist()] == by_hand
    sure = Bitwise((2.0 * ones - 1)[None] * 50)
    assert sure.log_prob(tokens[None]).abs().max() < 1e-6 and sure.entropy().max() < 1e-6
    flat = Bitwise(torch.zeros(1, 50, bits))
    assert torch.allclose(flat.entropy(), torch.tensor(bits * math.log(2)))
    assert torch.allclose(flat.log_prob(tokens[None]), torch.tensor(-bits * math.log(2)))


def test_certain_bits_have_a_finite_divergence() -> None:
    one, other = torch.full((1, 1, 1), 200.0), torch.full((1, 1, 1), -200.0).requires_grad_()
    kl = Bitwise(one).kl(Bitwise(other))
    assert kl.item() == pytest.approx(200)
    assert torch.isfinite(torch.autograd.grad(kl.sum(), other)[0]).all()


UNLIKE: list[tuple[TokenDistribution, TokenDistribution]] = [
    (Categorical(torch.zeros(1, 2, 3)), Categorical(torch.zeros(1, 2, 4))),
    (Categorical(torch.zeros(1, 2, 3)), Bitwise(torch.zeros(1, 2, 3))),
    (Bitwise(torch.zeros(1, 2, 3)), Bitwise(torch.zeros(1, 1, 3))),
]


@pytest.mark.parametrize(("one", "other"), UNLIKE)
def test_unlike_distributions_are_not_compared(one: TokenDistribution, other: TokenDistribution) -> None:
    with pytest.raises(ValueError, match="another kind or size"):
        one.kl(other)
    with pytest.raises(ValueError, match="tokens must have the shape"):
        one.log_prob(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"bits must be in 1\.\.64"):
        Bitwise(torch.zeros(1, 1, 65))
