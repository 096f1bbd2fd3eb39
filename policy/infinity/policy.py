"""Infinity as a Policy: prefill, sampling with a cache that forks, decoding, and the teacher-forced pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from varl.policy import lora
from varl.policy.base import (
    Grid,
    LogProbs,
    Sampled,
    SamplerState,
    SamplingParams,
    ShardUnits,
    cells,
)
from varl.policy.distributions import Bitwise, Guidance, pack_bits
from varl.policy.images import to_pixels
from varl.policy.infinity.config import InfinityConfig
from varl.policy.infinity.export import write
from varl.policy.infinity.rope import rotation
from varl.policy.infinity.state import Branch, InfinityState
from varl.policy.infinity.text import TextSource
from varl.policy.infinity.tokenizer import Tokenizer
from varl.policy.infinity.transformer import InfinityTransformer, Scales
from varl.policy.kv_cache import KeyValue, repeat
from varl.policy.sampling import check_request, guidance, guided, sample_bits, site_guidance, uniforms
from varl.policy.schedule import shared_scales, split_scales
from varl.policy.tensor_files import save_module, save_state
from varl.policy.trained_module import TrainedModule

WEIGHTS, TOKENIZER = "policy.safetensors", "tokenizer.safetensors"


class InfinityPolicy(TrainedModule):
    """A frozen tokenizer and a transformer, ``module``, that is trained. Implements varl.policy.base.TrainablePolicy.

    The module computes in the dtype that its weights have; the tokenizer is float32.
    """

    module: InfinityTransformer

    def __init__(
        self,
        config: InfinityConfig,
        tokenizer: Tokenizer,
        module: InfinityTransformer,
        text: TextSource,
        device: str = "cpu",
    ) -> None:
        self.config, self.text = config, text
        self.device = torch.device(device)
        self.tokenizer = tokenizer.to(self.device).eval().requires_grad_(False)
        self.module = module.to(self.device)
        self._turns = [self._rotation(grid) for grid in config.grids]

    @property
    def grids(self) -> tuple[Grid, ...]:
        """(height, width) of every scale, coarse to fine."""
        return self.config.grids

    @property
    def depth(self) -> int:
        """Layers of the transformer."""
        return self.config.transformer.depth

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of a decoded image in pixels."""
        return self.config.image_size

    @property
    def codes(self) -> None:
        """None: a token is packed bits."""
        return

    @property
    def bits_per_site(self) -> int:
        """Bits of a token."""
        return self.config.tokenizer.bits_per_site

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The linear layers of the blocks, and the two of the same names in the prompt's pooling."""
        return "mat_qkv", "mat_q", "mat_kv", "proj", "fc1", "fc2"

    def prefill(self, prompt: str, guided: bool) -> InfinityState:
        """Read the prompt and, if ``guided``, as many unconditional rows as it has; the state has batch 1.

        Raises:
            MissingPromptError: there are no rows of the prompt.
        """
        return self.prefill_all([prompt], guided)

    @torch.no_grad()
    def prefill_all(self, prompts: Sequence[str], guided: bool) -> InfinityState:
        """Read several prompts (see varl.policy.base.SeveralPrompts); raises what ``prefill`` does."""
        rows = [self._rows(prompt) for prompt in prompts]
        texts: list[Tensor | int] = [*rows, *map(len, rows)] if guided else [*rows]
        branches = tuple(Branch(self.module.read(text), self.module.empty) for text in texts)
        return InfinityState(branches, len(prompts))

    @torch.no_grad()
    def sample(
        self,
        state: SamplerState,
        to_scale: int,
        seeds: Sequence[int],
        params: SamplingParams,
        log_probs: LogProbs = "plain",
    ) -> tuple[InfinityState, Sampled]:
        """Draw scales state.next_scale … to_scale - 1 (see varl.policy.base.Policy.sample).

        Raises:
            ValueError: the scale range is empty or too long, the seeds do not divide among the candidates, or guidance
                lacks its branch.
        """
        if not isinstance(state, InfinityState):
            raise TypeError(f"the state of another policy: {type(state).__name__}")
        check_request(state, to_scale, len(self.grids), seeds, params, len(state.branches) > state.prompts)
        state = replace(state, branches=state.branches[: state.prompts * (1 + (params.cfg > 0))])
        scales = []
        for scale in range(state.next_scale, to_scale):
            state, odds = self._advance(state, scale, to_scale)
            copies = len(seeds) // state.batch
            sampled = self._draw(odds, scale, seeds, params, log_probs)
            codes = sampled.tokens.view(-1, *self.grids[scale])
            canvas = None if state.canvas is None else repeat(state.canvas, copies)
            state = replace(state, canvas=self.tokenizer.quantizer.add(canvas, codes), next_scale=scale + 1)
            scales.append(sampled)
        return state, Sampled.joined(scales)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3], RGB, of whole token sequences int64 [B, sum of h*w].

        Values -1 to 1 become 0 to 255, rounded; the published code truncates, and returns BGR.
        """
        return to_pixels(self.tokenizer.decode(tokens.to(self.device)))

    def decode_partial(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3], of full size, of the first scales alone: int64 [B, cells of scales 0 … t-1]."""
        return self.decode(tokens)

    def distribution(
        self, prompt: str, tokens: Tensor, from_scale: int, sampling: SamplingParams | None = None
    ) -> Bitwise:
        """Teacher-forced distribution at the scales ``from_scale`` … end of tokens.

        See varl.policy.base.Policy.distribution.
        """
        scales, rows = split_scales(tokens.to(self.device), self.grids), self._rows(prompt)
        first = sum(cells(self.grids[:from_scale]))
        hidden, head = self._teach(rows, scales)[:, first:], self.module.bit_head()
        if sampling is None:
            return Bitwise(hidden, head=head)
        away = None
        if sampling.cfg > 0:
            strength = site_guidance(sampling, self.grids, range(from_scale, len(scales)), self.device)
            away = Guidance(self._teach(len(rows), scales)[:, first:], strength)
        return Bitwise(hidden, sampling.temperature, away, head)

    def shard_units(self) -> ShardUnits:
        """The blocks, each called once a forward pass."""
        return ShardUnits(self.module.blocks, "in_turn")

    def save(self, model_dir: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config.json, policy.safetensors (as ``dtype``) and tokenizer.safetensors; no rows of prompts.

        Adapters are merged.
        """
        folder = Path(model_dir)
        self.config.write(folder)
        save_state(lora.merged_state(self.module), folder / WEIGHTS, dtype)
        save_module(self.tokenizer, folder / TOKENIZER, torch.float32)

    def export(self, folder: Path, dtype: torch.dtype | None = None) -> str:
        """Write the published files, adapters merged; the tokenizer's are float32 (varl.policy.infinity.export)."""
        state = {name: value.to("cpu", dtype or value.dtype) for name, value in lora.merged_state(self.module).items()}
        tokenizer = {name: value.to("cpu", torch.float32) for name, value in self.tokenizer.state_dict().items()}
        return write(self.config, state, tokenizer, folder)

    def _advance(self, state: InfinityState, scale: int, to_scale: int) -> tuple[InfinityState, Tensor]:
        """The state with this scale in its caches, and the log-odds float32 [branches, B, h*w, bits] of its bits.

        to_scale: up to which the caches are given room. The last scale is seen by none, so it is not kept.
        """
        counts, keep = cells(self.grids), scale + 1 < len(self.grids)
        room = sum(counts[scale : min(to_scale, len(counts) - 1)])
        each = state.batch // state.prompts
        branches = [self._continued(branch, each, keep * counts[scale], room) for branch in state.branches]
        inputs = None if state.canvas is None else self.tokenizer.quantizer.inputs(state.canvas, scale)
        run = self._scales(scale, scale + 1, inputs, keep)
        prompts, caches = [one.prompt for one in branches], [one.cache for one in branches]
        logits = self.module.sample(prompts, run, caches, state.prompts)
        return replace(state, branches=tuple(branches)), logits[..., 1] - logits[..., 0]

    def _continued(self, branch: Branch, batch: int, places: int, room: int) -> Branch:
        cache = branch.cache
        return replace(branch, cache=cache.continued(places, cache.length + room, batch // cache.batch))

    def _draw(
        self, odds: Tensor, scale: int, seeds: Sequence[int], params: SamplingParams, log_probs: LogProbs
    ) -> Sampled:
        """Tokens of a scale, of log-odds [branches, B, h*w, bits]."""
        copies, wanted = len(seeds) // odds.shape[1], odds[0]
        if len(odds) > 1:
            wanted = guided(odds[0], odds[1], guidance(params, scale, len(self.grids)))
        wanted = repeat(wanted, copies)
        count = cells(self.grids)[scale] * self.bits_per_site
        tokens = pack_bits(sample_bits(wanted, params, uniforms(seeds, scale, count, self.device)))
        plain = log_probs == "plain"
        reported = Bitwise(repeat(odds[0], copies)) if plain else Bitwise(wanted, params.temperature)
        return Sampled(tokens, reported.log_prob(tokens))

    def _teach(self, text: Tensor | int, scales: Sequence[Tensor]) -> Tensor:
        """Outputs [B, N, width] that predict every token of the given scales, from their tokens int64 [B, h, w].

        What the candidates share, the prompt and a common prefix, is computed once for all of them.
        """
        shared, inputs = shared_scales(scales), self._inputs(scales)
        common = [part[:1] for part in inputs[:shared]]
        runs = [self._scales(0, shared + 1, torch.cat(common, 1) if common else None, keep=shared + 1 < len(scales))]
        if shared + 1 < len(scales):
            runs.append(self._scales(shared + 1, len(scales), torch.cat(inputs[shared:], 1), keep=False))
        _, outputs, _ = self.module(text, runs, heads=False)
        return torch.cat([out.expand(len(scales[0]), -1, -1) for out in outputs], 1)

    def _inputs(self, scales: Sequence[Tensor]) -> list[Tensor]:
        """What scales 1 … t-1 are predicted from, float32 [B, h*w, bits] each."""
        canvas, parts = None, []
        for scale, tokens in enumerate(scales[:-1], 1):
            canvas = self.tokenizer.quantizer.add(canvas, tokens)
            parts.append(self.tokenizer.quantizer.inputs(canvas, scale))
        return parts

    def _scales(self, first: int, stop: int, inputs: Tensor | None, keep: bool) -> Scales:
        cosines, sines = zip(*self._turns[first:stop], strict=True)
        return Scales(first, self.grids[first:stop], inputs, (torch.cat(cosines), torch.cat(sines)), keep)

    def _rotation(self, grid: Grid) -> KeyValue:
        cos, sin = rotation(grid, self.config.whole_grid, self.config.transformer.head_size)
        return cos.to(self.device), sin.to(self.device)

    def _rows(self, prompt: str) -> Tensor:
        return self.text.rows(prompt).to(self.device)
