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


class _Sites:
    """Sites whose logits are made of hidden states by a head, a few at a time: what both kinds have in common.

    hidden: [B, n, dim]. head: weight and bias, where there is a head. temperature: > 0. guidance: moves logits away.
    """

    def __init__(
        self,
        hidden: Tensor,
        head: tuple[Tensor | None, Tensor | None],
        temperature: float,
        guidance: Guidance | None,
    ) -> None:
        self._shape, self._shared, self._temperature = hidden.shape[:2], head, temperature
        self._by_site: tuple[Tensor, Tensor | None, Tensor | None] = (hidden.flatten(0, 1), None, None)
        if guidance is not None:
            strength = guidance.strength.expand(self._shape).reshape(-1, 1)
            self._by_site = (hidden.flatten(0, 1), guidance.unconditional.flatten(0, 1), strength)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log pi(token), float32 [B, n], of int64 [B, n]; raises ValueError where the shapes differ."""
        return self._measure(lambda codes, logits: (self._of_token(logits, codes),), self._flat(tokens))[0]

    def kl(self, other: TokenDistribution) -> Tensor:
        """KL(self || other) over all codes, exact, float32 [B, n]; raises ValueError where ``other`` is not alike."""
        return self._measure(lambda _, logits, others: (self._from(logits, others),), None, self._alike(other))[0]

    def entropy(self) -> Tensor:
        """Entropy in nats, float32 [B, n], 0 to the logarithm of the number of codes."""
        return self._measure(lambda _, logits: (self._spread(logits),), None)[0]

    def evaluate(self, tokens: Tensor, reference: TokenDistribution) -> Evaluation:
        """All of the above in one pass over the slices, which shares the heads' logits."""

        def formulas(codes: Tensor, logits: Tensor, others: Tensor) -> tuple[Tensor, ...]:
            of_token = self._of_token(logits, codes), self._of_token(others, codes)
            return *of_token, self._from(logits, others), self._spread(logits)

        return Evaluation(*self._measure(formulas, self._flat(tokens), self._alike(reference)))

    def _size(self) -> tuple[int, int]:
        """Logits of a site, and about how many elements the largest tensor has for it while it is worked on."""
        raise NotImplementedError

    def _logits(self, by_site: Tensors, shared: Tensors) -> Tensor:
        """[rows, logits] of some rows of ``_by_site``."""
        hidden, unconditional, strength = by_site
        logits = self._head(hidden, *shared)
        if unconditional is not None and strength is not None:
            logits = guided(logits, self._head(unconditional, *shared), strength)
        return logits if self._temperature == 1 else logits / self._temperature

    @staticmethod
    def _head(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        """Logits [rows, …], at least float32, of hidden states [rows, dim]."""
        raise NotImplementedError

    @staticmethod
    def _of_token(logits: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities [rows] of tokens [rows]."""
        raise NotImplementedError

    @staticmethod
    def _from(logits: Tensor, others: Tensor) -> Tensor:
        """Divergences [rows] from others."""
        raise NotImplementedError

    @staticmethod
    def _spread(logits: Tensor) -> Tensor:
        """Entropies [rows]."""
        raise NotImplementedError

    def _measure(
        self, formulas: Callable[..., tuple[Tensor, ...]], tokens: Tensor | None, *others: _Sites
    ) -> list[Tensor]:
        """What ``formulas`` make of tokens [rows] and of logits [rows, …] of self and the others, each [B, n]."""
        involved = (self, *others)

        def work(by_site: Tensors, shared: Tensors) -> tuple[Tensor, ...]:
            logits = [
                one._logits(by_site[3 * i : 3 * i + 3], shared[2 * i : 2 * i + 2]) for i, one in enumerate(involved)
            ]
            return formulas(by_site[-1], *logits)

        by_site = [*(tensor for one in involved for tensor in one._by_site), tokens]
        shared = [tensor for one in involved for tensor in one._shared]
        return [part.view(self._shape) for part in by_slices(work, max(1, SLICE // self._size()[1]), by_site, shared)]

    def _flat(self, tokens: Tensor) -> Tensor:
        if self._shape != tokens.shape:
            raise ValueError(f"tokens must have the shape {tuple(self._shape)}, got {tuple(tokens.shape)}")
        return tokens.flatten().to(self._by_site[0].device)

    def _alike(self, other: TokenDistribution) -> _Sites:
        """``other``, which is of this kind and size; else raises ValueError."""
        kind, own = type(self), (self._size()[0], self._shape)
        if not isinstance(other, kind) or (other._size()[0], other._shape) != own:
            raise ValueError(
                f"compared with another kind or size of distribution than "
                f"{kind.__name__.lower()}, {own[0]} at {tuple(own[1])} sites"
            )
        return other


class Categorical(_Sites):
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
        super().__init__(hidden, (weight, bias), temperature, guidance)
        self.codes = hidden.shape[-1] if weight is None else weight.shape[0]

    def logits(self) -> Tensor:
        """The logits of all sites, float32 [B, n, codes], whole: for tests and small models."""
        return self._logits(self._by_site, self._shared).view(*self._shape, self.codes)

    def _size(self) -> tuple[int, int]:
        return self.codes, self.codes

    @staticmethod
    def _head(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return _single(hidden if weight is None else F.linear(hidden, weight, bias))

    @staticmethod
    def _of_token(logits: Tensor, tokens: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)

    @staticmethod
    def _from(logits: Tensor, others: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        return (log_p.exp() * (log_p - others.log_softmax(-1))).sum(-1)

    @staticmethod
    def _spread(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        return -(log_p.exp() * log_p).sum(-1)


class Bitwise(_Sites):
    """Independent bits at each site.

    A token's probability is the product over its bits, and 2^bits codes are never listed.

    logits: [B, n, bits], those of "1" less those of "0", or [B, n, bits, 2], those of "0" and "1"; or, where there is a
    head, hidden states [B, n, dim]. temperature: > 0. head: weight [2 * bits, dim] and bias [2 * bits], applied in
    float32, of which rows 2 j and 2 j + 1 are "0" and "1" of bit j.
    Tokens hold bit j as 1 << j, up to 64 bits (the 64th is the sign of an int64).
    """

    def __init__(
        self,
        logits: Tensor,
        temperature: float = 1.0,
        guidance: Guidance | None = None,
        head: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        if head is None:
            logits = _differences(logits)
            guidance = guidance and Guidance(_differences(guidance.unconditional), guidance.strength)
        super().__init__(logits, head or (None, None), temperature, guidance)
        self._width, self.bits = logits.shape[-1], logits.shape[-1] if head is None else len(head[0]) // 2
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"bits must be in 1..{MAX_BITS}, got {self.bits}")

    def _size(self) -> tuple[int, int]:
        return self.bits, max(self._width, 16 * self.bits)

    @staticmethod
    def _head(hidden: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        if weight is None or bias is None:  # log-odds themselves
            return hidden
        return _odds(F.linear(_single(hidden), _single(weight), _single(bias)).unflatten(-1, (-1, 2)))  # type: ignore[no-untyped-call]

    @staticmethod
    def _of_token(logits: Tensor, tokens: Tensor) -> Tensor:
        return F.logsigmoid(torch.where(unpack_bits(tokens, logits.shape[-1]), logits, -logits)).sum(-1)

    @staticmethod
    def _from(logits: Tensor, others: Tensor) -> Tensor:
        return _over_bits(logits, lambda side: F.logsigmoid(side * logits) - F.logsigmoid(side * others))

    @staticmethod
    def _spread(logits: Tensor) -> Tensor:
        return _over_bits(logits, lambda side: -F.logsigmoid(side * logits))


def unpack_bits(tokens: Tensor, bits: int) -> Tensor:
    """Bool [..., bits]: bit j of every int64 token."""
    places = torch.arange(bits, device=tokens.device)
    return (tokens[..., None] >> places & 1).bool()


def pack_bits(bits: Tensor) -> Tensor:
    """int64 [...] tokens of bool [..., bits], bits <= 64: bit j becomes 1 << j."""
    places = torch.arange(bits.shape[-1], device=bits.device)
    return (bits.long() << places).sum(-1)


def _over_bits(odds: Tensor, value: Callable[[int], Tensor]) -> Tensor:
    """Mean of ``value`` over what a bit may be (1: "1", -1: "0"), summed over the bits."""
    return (odds.sigmoid() * value(1) + (-odds).sigmoid() * value(-1)).sum(-1)


def _differences(logits: Tensor) -> Tensor:
    logits = _single(logits)
    return _odds(logits) if logits.ndim == 4 else logits


def _odds(pairs: Tensor) -> Tensor:
    return pairs[..., 1] - pairs[..., 0]


def _single(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
