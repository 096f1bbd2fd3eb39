"""A very small policy of bitwise tokens, as Infinity's are: 16 bits a site, each on its own given the scales before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy import lora, parameters
from varl.policy.base import Grid, LogProbs, ParameterGroups, Sampled, SamplerState, SamplingParams, Trainable, cells
from varl.policy.distributions import Bitwise, Guidance, pack_bits, unpack_bits
from varl.policy.sampling import guidance, guided, sample_bits, site_guidance, uniforms

BITS, WIDTH, STRIDE = 16, 32, 4


class BitwiseModule(nn.Module):
    """Logits of a scale's bits from the prompt, the scale and the sum of all earlier codes on the last grid."""

    def __init__(self, scales: int) -> None:
        super().__init__()
        self.text = nn.Embedding(257, WIDTH)
        self.scale = nn.Embedding(scales, WIDTH)
        self.codes = nn.Conv2d(BITS, WIDTH, 3, padding=1)
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 2 * BITS)

    def forward(self, text: Tensor, canvas: Tensor, scale: int, grid: Grid) -> Tensor:
        """Pairs of logits [B, h * w, bits, 2] of one scale: text int64 [length], canvas float [B, bits, H, W]."""
        seen = F.interpolate(canvas, size=grid, mode="bilinear", align_corners=False).to(self.head.weight.dtype)
        hidden = self.codes(seen).flatten(2).transpose(1, 2) + self.text(text).mean(0) + self.scale.weight[scale]
        return self.head(self.norm(torch.tanh(hidden))).unflatten(-1, (BITS, 2))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BitwiseState:
    """The sum of the codes sampled so far, float32 [B, bits, H, W], is all that the model remembers."""

    text: Tensor
    empty: Tensor | None
    canvas: Tensor
    next_scale: int = 0

    @property
    def batch(self) -> int:
        return len(self.canvas)

    def fork(self, copies: int) -> BitwiseState:
        return replace(self, canvas=self.canvas.repeat_interleave(copies, 0))


class BitwisePolicy:
    """Implements varl.policy.base.TrainablePolicy."""

    def __init__(
        self, seed: int, dtype: torch.dtype = torch.float32, grids: tuple[Grid, ...] = ((1, 1), (2, 2), (3, 5), (4, 6))
    ) -> None:
        self._grids = grids
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._module = BitwiseModule(len(grids)).to(dtype)

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def grids(self) -> tuple[Grid, ...]:
        return self._grids

    @property
    def image_size(self) -> tuple[int, int]:
        return self._grids[-1][0] * STRIDE, self._grids[-1][1] * STRIDE

    @property
    def codes(self) -> None:
        return None

    @property
    def bits_per_site(self) -> int:
        return BITS

    def prefill(self, prompt: str, guided: bool) -> BitwiseState:
        return BitwiseState(_text(prompt), _text("") if guided else None, torch.zeros(1, BITS, *self._grids[-1]))

    @torch.no_grad()
    def sample(
        self,
        state: SamplerState,
        to_scale: int,
        seeds: Sequence[int],
        params: SamplingParams,
        log_probs: LogProbs = "plain",
    ) -> tuple[BitwiseState, Sampled]:
        assert isinstance(state, BitwiseState)
        if params.cfg > 0 and state.empty is None:
            raise ValueError("cfg > 0 needs a state that was prefilled with guided=True")
        state, parts = state.fork(len(seeds) // state.batch), list[Sampled]()
        for scale in range(state.next_scale, to_scale):
            found, wanted = self._scale(state, scale, params)
            size = self._grids[scale][0] * self._grids[scale][1]
            tokens = pack_bits(sample_bits(wanted, params, uniforms(seeds, scale, size * BITS)))
            reported = Bitwise(found) if log_probs == "plain" else Bitwise(wanted, params.temperature)
            parts.append(Sampled(tokens, reported.log_prob(tokens)))
            state = replace(state, canvas=state.canvas + self._codes(tokens, scale), next_scale=scale + 1)
        return state, Sampled.joined(parts)

    def distribution(
        self, prompt: str, tokens: Tensor, from_scale: int, sampling: SamplingParams | None = None
    ) -> Bitwise:
        logits = self._teach(prompt, tokens, from_scale)
        if sampling is None:
            return Bitwise(logits)
        guide = None
        if sampling.cfg > 0:
            last = next(i for i in range(len(self._grids) + 1) if sum(cells(self._grids[:i])) == tokens.shape[1])
            strength = site_guidance(sampling, self._grids, range(from_scale, last))
            guide = Guidance(self._teach("", tokens, from_scale), strength)
        return Bitwise(logits, sampling.temperature, guide)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        return self.decode_partial(tokens)

    def decode_partial(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        counts = cells(self._grids)
        scales = next(t for t in range(1, len(counts) + 1) if sum(counts[:t]) == tokens.shape[1])
        parts = tokens.split_with_sizes(counts[:scales], 1)
        canvas = torch.stack([self._codes(part, scale) for scale, part in enumerate(parts)]).sum(0)
        pixels = F.interpolate(canvas[:, :3], scale_factor=STRIDE).sigmoid() * 255
        return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    @property
    def lora_targets(self) -> tuple[str, ...]:
        return ("head",)

    def select(self, trainable: Trainable) -> None:
        parameters.select(self.module, trainable)

    def parameter_groups(self) -> ParameterGroups:
        return parameters.parameter_groups(self.module)

    def load_weights(self, path: str) -> None:
        lora.load_weights(self.module, Path(path))

    def save_weights(self, path: str) -> None:
        lora.save_weights(self.module, Path(path))

    def _scale(self, state: BitwiseState, scale: int, params: SamplingParams) -> tuple[Tensor, Tensor]:
        """Log-odds [B, n, bits] of the conditional branch, and those that are sampled from, before the temperature."""
        grid = self._grids[scale]
        found = _odds(self._module(state.text, state.canvas, scale, grid))
        if state.empty is None or params.cfg == 0:
            return found, found
        other = _odds(self._module(state.empty, state.canvas, scale, grid))
        return found, guided(found, other, guidance(params, scale, len(self._grids)))

    def _teach(self, prompt: str, tokens: Tensor, from_scale: int) -> Tensor:
        text, canvas, outputs, taken = (
            _text(prompt),
            torch.zeros(len(tokens), BITS, *self._grids[-1]),
            list[Tensor](),
            0,
        )
        for scale, size in enumerate(cells(self._grids)):
            if taken == tokens.shape[1]:
                break
            if scale >= from_scale:
                outputs.append(self._module(text, canvas, scale, self._grids[scale]))
            canvas = canvas + self._codes(tokens[:, taken : taken + size], scale)
            taken += size
        return torch.cat(outputs, 1)

    def _codes(self, tokens: Tensor, scale: int) -> Tensor:
        """A scale's codes of -1 and 1 over the root of their number, float32, on the last grid."""
        signs = (2.0 * unpack_bits(tokens, BITS) - 1) / BITS**0.5
        grid = signs.transpose(1, 2).unflatten(2, self._grids[scale])
        return F.interpolate(grid, size=self._grids[-1], mode="bilinear", align_corners=False)


def _text(prompt: str) -> Tensor:
    return torch.tensor([256, *prompt.encode()])


def _odds(pairs: Tensor) -> Tensor:
    return (pairs[..., 1].float() - pairs[..., 0].float()).detach()
