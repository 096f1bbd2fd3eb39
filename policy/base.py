"""The Policy interface.

What rollout workers and the trainer need of a next-scale image model, whatever its architecture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Grid = tuple[int, int]  # (height, width) of one scale, in tokens
LogProbs = Literal[
    "plain", "sampled"
]  # of the conditional distribution at temperature 1, or with temperature and guidance
Trainable = Literal["all", "gains"]  # which parameters are trained


@dataclass(frozen=True)
class SamplingParams:
    """How a token is sampled: logits / temperature, then top-k, then top-p (docs/method.md).

    Raises:
        ValueError: a value is out of range; the message names the field.
    """

    temperature: float = 1.0  # > 0, finite
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # (0, 1]; 1: off
    cfg: float = 0.0  # guidance t at the last scale, logits = (1 + t) cond - t uncond; >= 0, finite; 0: off
    cfg_constant: bool = False  # False: t ramps linearly from 0 at the first scale to cfg at the last, as VAR samples

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be > 0 and finite, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.cfg < math.inf:
            raise ValueError(f"cfg must be >= 0 and finite, got {self.cfg}")


@dataclass(frozen=True)
class Sampled:
    """Tokens of consecutive scales for a batch of B candidates.

    tokens: int64 [B, n], codes (or packed bits) of the scales sampled, scale by scale, row by row.
    log_probs: float32 [B, n], log pi(token | prefix, prompt) before truncation, over all codes: "plain" of the
        conditional branch at temperature 1, "sampled" with temperature and guidance. It is what ``Policy.distribution``
        gives of the same tokens.
    """

    tokens: Tensor
    log_probs: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Sampled]) -> Sampled:
        """Parts of the same candidates, one after the other."""
        return cls(torch.cat([part.tokens for part in parts], 1), torch.cat([part.log_probs for part in parts], 1))


@dataclass(frozen=True)
class Layout:
    """What a policy's images and tokens are made of. A group of another layout comes from another model.

    grids: (height, width) of the T scales. height, width: pixels. codes: size of the codebook, 0 where every value of
    ``bits_per_site`` bits (1 to 64) is a code.
    """

    grids: tuple[Grid, ...]
    height: int
    width: int
    bits_per_site: int
    codes: int


@dataclass(frozen=True)
class Evaluation:
    """What two policies say of the same tokens, site by site; all float32 [B, n], differentiable."""

    log_probs: Tensor  # log pi(token)
    reference_log_probs: Tensor  # log pi_ref(token)
    kl: Tensor  # KL(pi || pi_ref) over all codes
    entropy: Tensor  # of pi, in nats


class TokenDistribution(Protocol):
    """What a policy says of n sites of B sequences, each site on its own given the prefix.

    Results are float32 [B, n], differentiable.
    No implementation holds a tensor of all sites by all codes. Kinds: varl.policy.distributions.
    """

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log pi(token) of int64 [B, n]."""

    def kl(self, other: TokenDistribution) -> Tensor:
        """KL(self || other) over all codes, exact, >= 0; ``other`` is of the same kind and size, else ValueError."""

    def entropy(self) -> Tensor:
        """Entropy in nats."""

    def evaluate(self, tokens: Tensor, reference: TokenDistribution) -> Evaluation:
        """All of these at once, for less than the price of each."""


class SamplerState(Protocol):
    """A KV cache over the text and the scales sampled so far, for B candidates of one prompt."""

    @property
    def next_scale(self) -> int:
        """Index (from 0) of the scale that is sampled next."""

    @property
    def batch(self) -> int:
        """B, the number of candidates."""

    def fork(self, copies: int) -> SamplerState:
        """Every candidate repeated ``copies`` times, next to each other: [a, b] -> [a, a, b, b].

        Nothing is recomputed.
        """


class Policy(Protocol):
    """A next-scale text-to-image policy. Candidates of one call share one prompt, or see ``SeveralPrompts``."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """(height, width) of the T scales, coarse to fine."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a decoded image in pixels; they need not be equal."""

    @property
    def codes(self) -> int | None:
        """Number of codes that a token may be, 0 … codes - 1; None where a token is packed bits."""

    @property
    def bits_per_site(self) -> int:
        """Bits that a token takes, 1 to 64: those of the largest code, or the packed bits."""

    def prefill(self, prompt: str, guided: bool) -> SamplerState:
        """Read the prompt once; ``guided`` also prepares the unconditional branch. The state has batch 1."""

    def sample(
        self,
        state: SamplerState,
        to_scale: int,
        seeds: Sequence[int],
        params: SamplingParams,
        log_probs: LogProbs = "plain",
    ) -> tuple[SamplerState, Sampled]:
        """Draw scales ``state.next_scale`` … ``to_scale - 1`` for len(seeds) candidates.

        The seeds divide evenly among the state's candidates, in order: with batch 2 and four seeds the first two
        continue the first candidate, as fork(2) would have it, and what continuations share is computed once. A
        candidate's tokens depend only on the prompt, its prefix and its seed, never on its batch mates. Returns the
        state after the sampled scales (the one given stays valid) and what was sampled, with the log-probabilities of
        the distribution that ``log_probs`` names.
        """

    def decode(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3], RGB, of whole token sequences int64 [B, sum of h*w]."""

    def decode_partial(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3], of full size, of the first scales alone: int64 [B, cells of scales 0 … t-1]."""

    def distribution(
        self, prompt: str, tokens: Tensor, from_scale: int, sampling: SamplingParams | None = None
    ) -> TokenDistribution:
        """Teacher-forced distribution at scales ``from_scale`` … to the end of ``tokens``.

        Plain, or with ``sampling``'s temperature and guidance; truncation (top-k, top-p) is left out, since it has no
        gradient.
        tokens: int64 [B, cells of scales 0 … t-1] for some t > from_scale, all of one prompt; the n sites are those of
        scales from_scale … t-1. Differentiable in the parameters.
        """

    def load_weights(self, path: str) -> None:
        """Replace the trained weights by those of a safetensors file; unknown or missing names raise ValueError.

        The file may hold adapters alone (varl.policy.lora), which are then attached.
        """


@runtime_checkable
class SeveralPrompts(Protocol):
    """A policy that samples several prompts in one call; of another one each prompt has calls of its own."""

    def prefill_all(self, prompts: Sequence[str], guided: bool) -> SamplerState:
        """Read several prompts; the state's batch is their number, and each candidate continues its own, in order."""


def layout_of(policy: Policy) -> Layout:
    """The layout of a policy's images and tokens."""
    height, width = policy.image_size
    return Layout(tuple(policy.grids), height, width, policy.bits_per_site, policy.codes or 0)


@dataclass(frozen=True)
class ParameterGroups:
    """Parameters by how they are trained.

    Which ones are gains, each moving a whole layer's output, only the model knows.
    """

    gains: list[torch.nn.Parameter]
    others: list[torch.nn.Parameter]


class TrainablePolicy(Policy, Protocol):
    """A policy whose parameters the trainer may move."""

    @property
    def module(self) -> torch.nn.Module:
        """What is trained; its parameters have stable names."""

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Last parts of the names of the linear layers that may have adapters (varl.policy.lora), all of them called.

        None of them is a head whose weight is used without a call. All get adapters unless a recipe names some.
        """

    def select(self, trainable: Trainable) -> None:
        """Let these parameters, and no others, require a gradient."""

    def parameter_groups(self) -> ParameterGroups:
        """The parameters that require a gradient."""

    def save_weights(self, path: str) -> None:
        """Write the module's weights, or its adapters alone if it has some, as safetensors, whole or not at all."""


@dataclass(frozen=True)
class ShardUnits:
    """How a module's weights may be spread over devices: what is gathered for a while, used and let go again.

    blocks: the layers that are gathered one at a time, in the order in which they are called; the rest is gathered
    whole. block_call: the method of a block that a forward pass calls, once, whatever its data. reads: methods of the
    module, besides ``forward``, that read weights.
    """

    blocks: Sequence[torch.nn.Module]
    block_call: str = "forward"
    reads: tuple[str, ...] = ()


@runtime_checkable
class Shardable(Protocol):
    """A policy that says how it may be spread; another one's module is gathered whole."""

    def shard_units(self) -> ShardUnits:
        """The units of ``module``."""


def index_bits(codes: int) -> int:
    """Bits that an index into ``codes`` codes takes, at least 1."""
    return max(1, (codes - 1).bit_length())


def cells(grids: Sequence[Grid]) -> list[int]:
    """Number of tokens of each scale."""
    return [h * w for h, w in grids]


def scale_of_token(grids: Sequence[Grid], device: torch.device | None = None) -> Tensor:
    """int64 [sum of h*w]: the scale index of every token of a whole sequence."""
    return torch.repeat_interleave(torch.arange(len(grids), device=device), torch.tensor(cells(grids), device=device))
