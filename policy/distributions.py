"""What a policy says of each site: one of many codes (categorical), or many independent bits (bitwise).

A loss over [sites, codes] logits in the plain way keeps about ten tensors of that size. Here the head is applied to a
few sites at a time, forwards and again backwards, so that no tensor of all sites by all codes ever exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from varl.policy.base import Evaluation, TokenDistribution
from varl.policy.sampling import guided
from varl.policy.slices import Tensors, by_slices

SLICE = 2**23  # logits of one slice: 32 MiB in float32, of which about ten are alive at a time
MAX_BITS = 64


@dataclass(frozen=True)
class Guidance:
    """The unconditional branch, in the form in which the conditional one is given, and how far to move away from it.

    unconditional: [B, n, ...]. strength: float32 [n], t in (1 + t) conditional - t unconditional.
    """

    unconditional: Tensor
    strength: Tensor


class Categorical:
    """Softmax over the codes at each site, of ``hidden @ weight.T + bias``, guided, over the temperature.

    hidden: [B, n, dim], or logits [B, n, codes] where there is no weight. weight: [codes, dim]. bias: [codes].
    temperature: > 0.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        temperature: float = 1.0,
        guidance: Guidance | None = None,
    ) -> None:
        self._shape, self._temperature = hidden.shape[:2], temperature
        self._by_site: tuple[Tensor, Tensor | None, Tensor | None] = (hidden.flatten(0, 1), None, None)
        if guidance is not None:
            strength = guidance.strength.expand(self._shape).reshape(-1, 1)
            self._by_site = (hidden.flatten(0, 1), guidance.unconditional.flatten(0, 1), strength)
        self._shared = (weight, bias)
        self.codes = hidden.shape[-1] if weight is None else weight.shape[0]

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log pi(token), float32 [B, n], of int64 [B, n]; raises ValueError where the shapes differ."""
        return self._measure(lambda codes, logits: (_log_prob(logits, codes),), self._flat(tokens))[0]

    def kl(self, other: TokenDistribution) -> Tensor:
        """KL(self || other) summed over all codes, float32 [B, n]; raises ValueError where ``other`` is not alike."""
        return self._measure(lambda _, logits, reference: (_kl(logits, reference),), None, self._alike(other))[0]

    def entropy(self) -> Tensor:
        """Entropy in nats, float32 [B, n], 0 to log(codes)."""
        return self._measure(lambda _, logits: (_entropy(logits),), None)[0]

    def evaluate(self, tokens: Tensor, reference: TokenDistribution) -> Evaluation:
        """All of the above in one pass over the slices, which shares the heads' logits."""

        def formulas(codes: Tensor, logits: Tensor, other: Tensor) -> tuple[Tensor, ...]:
            return _log_prob(logits, codes), _log_prob(other, codes), _kl(logits, other), _entropy(logits)

        return Evaluation(*self._measure(formulas, self._flat(tokens), self._alike(reference)))

    def logits(self) -> Tensor:
        """The logits of all sites, float32 [B, n, codes], whole: for tests and small models."""
        return self._logits(self._by_site, self._shared).view(*self._shape, self.codes)

    def _logits(self, by_site: Tensors, shared: Tensors) -> Tensor:
        """[rows, codes] of some rows of ``_by_site``."""
        hidden, unconditional, strength = by_site
        logits = _head(hidden, *shared)
        if unconditional is not None and strength is not None:
            logits = guided(logits, _head(unconditional, *shared), strength)
        return logits if self._temperature == 1 else logits / self._temperature

    def _measure(
        self, formulas: Callable[..., tuple[Tensor, ...]], tokens: Tensor | None, *others: Categorical
    ) -> list[Tensor]:
        """What ``formulas`` make of tokens [rows] and of logits [rows, codes] of self and the others, each [B, n]."""
        involved = (self, *others)

        def work(by_site: Tensors, shared: Tensors) -> tuple[Tensor, ...]:
            logits = [
                one._logits(by_site[3 * i : 3 * i + 3], shared[2 * i : 2 * i + 2]) for i, one in enumerate(involved)
            ]
            return formulas(by_site[-1], *logits)

        by_site = [*(tensor for one in involved for tensor in one._by_site), tokens]
        shared = [tensor for one in involved for tensor in one._shared]
        return [part.view(self._shape) for part in by_slices(work, max(1, SLICE // self.codes), by_site, shared)]

    def _flat(self, tokens: Tensor) -> Tensor:
        _check_sites(self._shape, tokens.shape)
        return tokens.flatten().to(self._by_site[0].device)

    def _alike(self, other: TokenDistribution) -> Categorical:
        if not isinstance(other, Categorical) or (other.codes, other._shape) != (self.codes, self._shape):
            raise ValueError(
                f"compared with another kind or size of distribution than "
                f"{self.codes} codes at {tuple(self._shape)} sites"
            )
        return other


class Bitwise:
    """Independent bits at each site.

    A token's probability is the product over its bits, and 2^bits codes are never listed.

    logits: [B, n, bits], those of "1" less those of "0", or [B, n, bits, 2], those of "0" and "1". temperature: > 0.
    Tokens hold bit j as 1 << j, up to 64 bits (the 64th is the sign of an int64).
    """

    def __init__(self, logits: Tensor, temperature: float = 1.0, guidance: Guidance | None = None) -> None:
        logits = _differences(logits)
        if guidance is not None:
            logits = guided(logits, _differences(guidance.unconditional), guidance.strength[:, None])
        self._logits = logits if temperature == 1 else logits / temperature
        self.bits = logits.shape[-1]
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be in 1..{MAX_BITS}, got {self.bits}")

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log pi(token), float32 [B, n], of int64 [B, n]; raises ValueError where the shapes differ."""
        _check_sites(self._logits.shape[:2], tokens.shape)
        ones = unpack_bits(tokens.to(self._logits.device), self.bits)
        return F.logsigmoid(torch.where(ones, self._logits, -self._logits)).sum(-1)

    def kl(self, other: TokenDistribution) -> Tensor:
        """KL(self || other) over all codes, exact, float32 [B, n]; raises ValueError where ``other`` is not alike."""
        if not isinstance(other, Bitwise) or other._logits.shape != self._logits.shape:
            raise ValueError(
                f"compared with another kind or size of distribution than bits of shape {tuple(self._logits.shape)}"
            )
        return self._mean(lambda side: F.logsigmoid(side * self._logits) - F.logsigmoid(side * other._logits))

    def entropy(self) -> Tensor:
        """Entropy in nats, float32 [B, n], 0 to bits * log 2."""
        return self._mean(lambda side: -F.logsigmoid(side * self._logits))

    def evaluate(self, tokens: Tensor, reference: TokenDistribution) -> Evaluation:
        """All of the above."""
        return Evaluation(self.log_prob(tokens), reference.log_prob(tokens), self.kl(reference), self.entropy())

    def _mean(self, value: Callable[[int], Tensor]) -> Tensor:
        """Mean of ``value`` over what a bit may be (1: "1", -1: "0"), summed over the bits."""
        one = self._logits.sigmoid() * value(1)
        return (one + (-self._logits).sigmoid() * value(-1)).sum(-1)


def unpack_bits(tokens: Tensor, bits: int) -> Tensor:
    """Bool [..., bits]: bit j of every int64 token."""
    places = torch.arange(bits, device=tokens.device)
    return (tokens[..., None] >> places & 1).bool()


def pack_bits(bits: Tensor) -> Tensor:
    """int64 [...] tokens of bool [..., bits], bits <= 64: bit j becomes 1 << j."""
    places = torch.arange(bits.shape[-1], device=bits.device)
    return (bits.long() << places).sum(-1)


def _head(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return _single(hidden if weight is None else F.linear(hidden, weight, bias))


def _log_prob(logits: Tensor, tokens: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def _kl(logits: Tensor, reference: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * (log_p - reference.log_softmax(-1))).sum(-1)


def _entropy(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _differences(logits: Tensor) -> Tensor:
    logits = _single(logits)
    return logits[..., 1] - logits[..., 0] if logits.ndim == 4 else logits


def _single(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_sites(own: torch.Size, tokens: torch.Size) -> None:
    if own != tokens:
        raise ValueError(f"tokens must have the shape {tuple(own)}, got {tuple(tokens)}")
