"""NextFlow as a Policy.

Prefill, sampling with a KV cache that forks, decoding, and the trainer's teacher-forced pass.
"""

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
    index_bits,
)
from varl.policy.distributions import Categorical, Guidance
from varl.policy.images import to_pixels
from varl.policy.kv_cache import KeyValue, KVCache
from varl.policy.nextflow.config import NextFlowConfig
from varl.policy.nextflow.draw import Draw, draw_sites
from varl.policy.nextflow.quantizer import upsample
from varl.policy.nextflow.rope import rotation, text_positions, visual_positions
from varl.policy.nextflow.sequence import code_inputs, prompt_tokens
from varl.policy.nextflow.state import Branch, NextFlowState
from varl.policy.nextflow.text import ByteText, TextTokenizer
from varl.policy.nextflow.tokenizer import Tokenizer
from varl.policy.nextflow.transformer import Codes, NextFlowTransformer, Text
from varl.policy.sampling import check_request, guidance, site_guidance, uniforms
from varl.policy.schedule import shared_scales, split_scales
from varl.policy.tensor_files import save_module, save_state
from varl.policy.trained_module import TrainedModule


class NextFlowPolicy(TrainedModule):
    """A frozen tokenizer and a transformer, ``module``, that is trained. Implements varl.policy.base.TrainablePolicy.

    The module computes in the dtype that its weights have; the tokenizer is float32, since rounded codes are other
    codes. ``text`` may be left out where the configuration says bytes.

    Raises:
        ValueError: the configuration's text needs a tokenizer, and none is given.
    """

    module: NextFlowTransformer

    def __init__(
        self,
        config: NextFlowConfig,
        tokenizer: Tokenizer,
        module: NextFlowTransformer,
        device: str = "cpu",
        text: TextTokenizer | None = None,
    ) -> None:
        if text is None and config.transformer.text != "bytes":
            raise ValueError(f"transformer.text is {config.transformer.text}: give its tokenizer")
        self.config, self.text = config, text or ByteText()
        self.device = torch.device(device)
        self.tokenizer = tokenizer.to(self.device).eval().requires_grad_(False)
        self.module = module.to(self.device)

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
    def codes(self) -> int:
        """Entries of the codebook."""
        return self.config.tokenizer.codes

    @property
    def bits_per_site(self) -> int:
        """Bits of a code's index."""
        return index_bits(self.codes)

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """The linear layers of the blocks."""
        return "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"

    def prefill(self, prompt: str, guided: bool) -> NextFlowState:
        """Read the prompt, and the empty prompt if ``guided``; the state has batch 1."""
        return self.prefill_all([prompt], guided)

    @torch.no_grad()
    def prefill_all(self, prompts: Sequence[str], guided: bool) -> NextFlowState:
        """Read several prompts (see varl.policy.base.SeveralPrompts), and the empty one once for all of them."""
        branches = [self._read_text(prompt) for prompt in prompts]
        if guided:
            branches += [self._read_text("")] * len(prompts)
        return NextFlowState(tuple(branches), len(prompts))

    @torch.no_grad()
    def sample(
        self,
        state: SamplerState,
        to_scale: int,
        seeds: Sequence[int],
        params: SamplingParams,
        log_probs: LogProbs = "plain",
    ) -> tuple[NextFlowState, Sampled]:
        """Draw scales state.next_scale … to_scale - 1 (see varl.policy.base.Policy.sample).

        Raises:
            ValueError: the scale range is empty or too long, the seeds do not divide among the candidates, or guidance
                lacks its branch.
        """
        if not isinstance(state, NextFlowState):
            raise TypeError(f"the state of another policy: {type(state).__name__}")
        check_request(state, to_scale, len(self.grids), seeds, params, len(state.branches) > state.prompts)
        state = replace(state, branches=state.branches[: state.prompts * (1 + (params.cfg > 0))])
        scales = []
        for scale in range(state.next_scale, to_scale):
            state, hidden = self._advance(state, scale, to_scale)
            how = Draw(params, guidance(params, scale, len(self.grids)), len(seeds) // state.batch, log_probs)
            sampled = self._draw(hidden, scale, seeds, how)
            state = replace(state, last=sampled.tokens.view(-1, *self.grids[scale]), next_scale=scale + 1)
            scales.append(sampled)
        return state, Sampled.joined(scales)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3] of whole token sequences int64 [B, sum of h*w]."""
        return to_pixels(self.tokenizer.decode(tokens.to(self.device)))

    def decode_partial(self, tokens: Tensor) -> npt.NDArray[np.uint8]:
        """Images uint8 [B, H, W, 3], of full size, of the first scales alone: int64 [B, cells of scales 0 … t-1]."""
        return self.decode(tokens)

    def distribution(
        self, prompt: str, tokens: Tensor, from_scale: int, sampling: SamplingParams | None = None
    ) -> Categorical:
        """Teacher-forced distribution at the scales ``from_scale`` … end of tokens.

        See varl.policy.base.Policy.distribution.
        """
        scales = split_scales(tokens.to(self.device), self.grids)
        first, weight = sum(cells(self.grids[:from_scale])), self.module.visual_head()
        hidden = self._teach(prompt, scales)[:, first:]
        if sampling is None:
            return Categorical(hidden, weight)
        guidance = None
        if sampling.cfg > 0:
            strength = site_guidance(sampling, self.grids, range(from_scale, len(scales)), self.device)
            guidance = Guidance(self._teach("", scales)[:, first:], strength)
        return Categorical(hidden, weight, temperature=sampling.temperature, guidance=guidance)

    def shard_units(self) -> ShardUnits:
        """The blocks, each called once a forward pass; the head is read outside of it."""
        return ShardUnits(list(self.module.layers), "in_turn", ("visual_head",))

    def save(self, model_dir: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write config.json, policy.safetensors, tokenizer.safetensors and the text tokenizer's file if it has one.

        Adapters are merged. Floats as ``dtype``, or in their own; read back as the reader wants them.
        """
        self.save_tokenizer(model_dir, dtype)
        save_state(lora.merged_state(self.module), Path(model_dir) / "policy.safetensors", dtype)

    def export(self, folder: Path, dtype: torch.dtype | None = None) -> str:
        """Write a model folder, adapters merged: no other format of this model is published."""
        self.save(folder, dtype)
        return "A model folder of varl: `varl generate PROMPT --model DIR`, or `varl.policy.load.load(DIR)` in Python."

    def save_tokenizer(self, model_dir: str | Path, dtype: torch.dtype | None = None) -> None:
        """All of that but policy.safetensors, for a transformer that is still to be trained."""
        self.config.write(Path(model_dir))
        self.text.save(Path(model_dir))
        save_module(self.tokenizer, Path(model_dir) / "tokenizer.safetensors", dtype)

    def _read_text(self, prompt: str) -> Branch:
        text = self._text(prompt)
        (hidden,), (cache,) = self.module([text])
        return Branch(KVCache.of(cache), hidden[:, -1], text.ids.shape[1] - 1)

    def _advance(self, state: NextFlowState, scale: int, to_scale: int) -> tuple[NextFlowState, Tensor]:
        """The state with this scale's inputs in its caches, and its outputs [branches, B, h*w, dim], normalised.

        to_scale: up to which the caches are given room. The last scale is seen by none, so its inputs are not kept.
        """
        if state.last is None:
            hidden = torch.stack([branch.hidden for branch in state.branches])
            return state, hidden.view(-1, state.prompts, *hidden.shape[1:])
        grid, keep = self.grids[scale], scale + 1 < len(self.grids)
        room = sum(cells(self.grids[scale : min(to_scale, len(self.grids) - 1)]))
        each = state.batch // state.prompts
        branches = [self._continued(branch, each, keep * cells([grid])[0], room) for branch in state.branches]
        vectors = upsample(self.tokenizer.quantizer.lookup(state.last), grid).flatten(2).transpose(1, 2)
        turns = zip(*(self._turn((grid,), scale, branch.counter) for branch in branches), strict=True)
        cos, sin = (torch.stack(turn)[:, None, None] for turn in turns)
        codes = Codes(
            vectors.reshape(state.prompts, each, *vectors.shape[1:]),
            self._scale_index((grid,), scale),
            (cos, sin),
            tuple(cells([grid])),
        )
        hidden = self.module.sample(codes, [branch.cache for branch in branches], keep)
        return replace(state, branches=tuple(branches)), hidden

    def _continued(self, branch: Branch, batch: int, places: int, room: int) -> Branch:
        cache = branch.cache
        return replace(branch, cache=cache.continued(places, cache.length + room, batch // cache.batch))

    def _draw(self, hidden: Tensor, scale: int, seeds: Sequence[int], how: Draw) -> Sampled:
        found = uniforms(seeds, scale, cells(self.grids)[scale], self.device)
        return draw_sites(self.module, hidden[0], hidden[1] if len(hidden) > 1 else None, found, how)

    def _teach(self, prompt: str, scales: Sequence[Tensor]) -> Tensor:
        """Outputs [B, N, dim] that predict every token of the given scales, from their codes int64 [B, h, w].

        What the candidates share, the prompt and a common prefix, is computed once for all of them.
        """
        text, shared = self._text(prompt), shared_scales(scales)
        width = text.ids.shape[1]
        parts: list[Text | Codes] = [text]
        if shared:
            parts.append(self._codes([codes[:1] for codes in scales[:shared]], 1, width))
        if shared + 1 < len(scales):
            parts.append(self._codes(scales[shared:-1], shared + 1, width))
        (read, *outputs), _ = self.module(parts)
        return torch.cat([out.expand(len(scales[0]), -1, -1) for out in (read[:, -1:], *outputs)], 1)

    def _text(self, prompt: str) -> Text:
        ids = torch.tensor([prompt_tokens(prompt, self.text, self.module.text_size)], device=self.device)
        n = ids.shape[1]
        return Text(
            ids, self._rotation(text_positions(n)), torch.ones(n, n, dtype=torch.bool, device=self.device).tril()
        )

    def _codes(self, inputs: Sequence[Tensor], first: int, width: int) -> Codes:
        """Codes of the scales from ``first`` on, whose inputs are the codes of the scales before them.

        ``width``: length of the text.
        """
        grids = self.grids[first : first + len(inputs)]
        vectors = code_inputs(self.tokenizer.quantizer, inputs, self.grids[first - 1 :])
        turn = self._turn(grids, first, width - 1)
        return Codes(vectors, self._scale_index(grids, first), turn, tuple(cells(grids)))

    def _turn(self, grids: Sequence[Grid], first_scale: int, counter: int) -> KeyValue:
        return self._rotation(visual_positions(grids, first_scale, counter, self.config.transformer.rope_range))

    def _rotation(self, positions: Tensor) -> KeyValue:
        return rotation(positions.to(self.device), self.config.transformer)

    def _scale_index(self, grids: Sequence[Grid], first: int) -> Tensor:
        index = torch.repeat_interleave(torch.arange(first, first + len(grids)), torch.tensor(cells(grids)))
        return index.to(self.device)
