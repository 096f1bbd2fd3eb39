"""What a policy says of each site: one of many codes (categorical), or many independent bits (bitwise).

A loss over [sites, codes] logits in the plain way keeps about ten tensors of that size. Here the head is applied to a few sites at a time,
forwards and again backwards, so that no tensor of all sites by all codes ever exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from varl.policy.base import Evaluation, TokenDistribution
from varl.policy.sampling import guided

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

    hidden: [B, n, dim], or logits [B, n, codes] where there is no weight. weight: [codes, dim]. bias: [codes]. temperature: > 0.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        temperature: float = 1.0,
        guidance: Guidance | None = None,
    ) -> None:
        self._shape = hidden.shape[:2]
        self._hidden, self._weight, self._bias, self._temperature = hidden.flatten(0, 1), weight, bias, temperature
        self._guidance = None
        if guidance is not None:
            strength = guidance.strength.expand(self._shape).reshape(-1, 1)
            self._guidance = Guidance(guidance.unconditional.flatten(0, 1), strength)
        self.codes = hidden.shape[-1] if weight is None else weight.shape[0]

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log pi(token), float32 [B, n], of int64 [B, n]; raises ValueError where the shapes differ."""
        flat = self._flat(tokens)
        return self._by_slices(lambda rows: (_log_prob(self._logits(rows), flat[rows]),))[0]

    def kl(self, other: TokenDistribution) -> Tensor:
        """KL(self || other) summed over all codes, float32 [B, n]; raises ValueError where ``other`` is not alike."""
        reference = self._alike(other)
        return self._by_slices(lambda rows: (_kl(self._logits(rows), reference._logits(rows)),))[0]

    def entropy(self) -> Tensor:
        """Entropy in nats, float32 [B, n], 0 to log(codes)."""
        return self._by_slices(lambda rows: (_entropy(self._logits(rows)),))[0]

    def evaluate(self, tokens: Tensor, reference: TokenDistribution) -> Evaluation:
        """All of the above in one pass over the slices, which shares the heads' logits."""
        flat, other = self._flat(tokens), self._alike(reference)

        def work(rows: slice) -> tuple[Tensor, ...]:
            logits, compared = self._logits(rows), other._logits(rows)
            picked = [_log_prob(one, flat[rows]) for one in (logits, compared)]
            return (*picked, _kl(logits, compared), _entropy(logits))

        return Evaluation(*self._by_slices(work))

    def logits(self) -> Tensor:
        """The logits of all sites, float32 [B, n, codes], whole: for tests and small models."""
        return self._logits(slice(None)).view(*self._shape, self.codes)

    def _logits(self, rows: slice) -> Tensor:
        logits = self._head(self._hidden[rows])
        if self._guidance is not None:
            logits = guided(logits, self._head(self._guidance.unconditional[rows]), self._guidance.strength[rows])
        return logits if self._temperature == 1 else logits / self._temperature

    def _head(self, hidden: Tensor) -> Tensor:
        return _single(hidden if self._weight is None else F.linear(hidden, self._weight, self._bias))

    def _by_slices(self, work: Callable[[slice], tuple[Tensor, ...]]) -> list[Tensor]:
        """What ``work`` returns for all sites, each [B, n]; slice by slice its inside is dropped and computed again going backwards."""
        slices = list(self._slices())
        if len(slices) == 1:  # little enough to be kept
            return [part.view(self._shape) for part in work(slices[0])]
        parts = [checkpoint(work, rows, use_reentrant=False, preserve_rng_state=False) for rows in slices]
        return [torch.cat(column).view(self._shape) for column in zip(*parts, strict=True)]

    def _slices(self) -> Iterator[slice]:
        sites, step = len(self._hidden), max(1, SLICE // self.codes)
        return (slice(start, start + step) for start in range(0, max(1, sites), step))

    def _flat(self, tokens: Tensor) -> Tensor:
        _check_sites(self._shape, tokens.shape)
        return tokens.flatten().to(self._hidden.device)

    def _alike(self, other: TokenDistribution) -> Categorical:
        if not isinstance(other, Categorical) or (other.codes, other._shape) != (self.codes, self._shape):
            raise ValueError(f"compared with another kind or size of distribution than {self.codes} codes at {tuple(self._shape)} sites")
        return other


class Bitwise:
    """Independent bits at each site: a token's probability is the product over its bits, and 2^bits codes are never listed.

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
            raise ValueError(f"compared with another kind or size of distribution than bits of shape {tuple(self._logits.shape)}")
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
