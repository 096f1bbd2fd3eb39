"""The decoder-only transformer: text causal, each scale bidirectional inside and seeing all earlier scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy.attention import by_scale
from varl.policy.kv_cache import KeyValue, KVCache, Lane, Segment, concatenated, lanes, slices
from varl.policy.nextflow.config import NextFlowConfig, TransformerConfig
from varl.policy.nextflow.rope import rotate
from varl.policy.nextflow.text import BOI, SPECIALS
from varl.policy.recompute import Recomputes


@dataclass(frozen=True)
class Text:
    """A stretch of text: token ids int64 [B, N], rotations, and the mask [N, N] over itself, which comes first."""

    ids: Tensor
    turn: KeyValue
    mask: Tensor


@dataclass(frozen=True)
class Codes:
    """A run of scales: upsampled code vectors, float [..., N, C], and the scale index of each, int64 [N].

    counts: tokens of each scale; a scale sees itself and all before it.
    """

    vectors: Tensor
    scale: Tensor
    turn: KeyValue
    counts: tuple[int, ...]


Visible = Tensor | tuple[int, ...]  # what tokens see: a bool mask, or the counts of scales, without a mask

EPSILON = 1e-6  # of every normalisation, as in Qwen2.5


class RMSNorm(nn.RMSNorm):
    """RMS normalisation whose weight follows the input's dtype, so that the fused kernel also serves under autocast."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same."""
        if x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_grad_enabled():
            # Torch's own, without the two copies that it makes to and from float32.
            scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)
            return (x * scale).mul_(self.weight.to(x.dtype))
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions and optional query-key normalisation."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = config.heads, config.kv_heads, config.dim // config.heads
        self.q_proj = nn.Linear(config.dim, config.heads * self.size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.dim, config.kv_heads * self.size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.dim, config.kv_heads * self.size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.heads * self.size, config.dim, bias=False)
        self.q_norm = RMSNorm(self.size) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.size) if config.qk_norm else nn.Identity()

    def forward(self, x: Tensor, turn: KeyValue, past: Sequence[KeyValue], visible: Visible) -> tuple[Tensor, KeyValue]:
        """[B, N, dim] to the same; also the new keys and values, which the caller may keep. ``past`` comes before x."""
        b = len(x)
        q, k, v = self._project(x)
        q, k = rotate(q, *turn), rotate(k, *turn)
        keys = torch.cat([*(old.expand(b, -1, -1, -1) for old, _ in past), k], dim=2)
        values = torch.cat([*(old.expand(b, -1, -1, -1) for _, old in past), v], dim=2)
        keys, values = keys.to(q.dtype), values.to(q.dtype)
        if isinstance(visible, Tensor):
            out = self._attend(q, keys, values, visible)
        else:
            out = by_scale(self._attend, q, keys, values, visible)
        return self.o_proj(_join(out)), (k, v)

    def sample(self, x: Tensor, turn: KeyValue, lanes: Sequence[Lane]) -> Tensor:
        """[lanes * B, n, dim] of one scale to the same; every lane's rows see what their lane has, and themselves.

        turn: [lanes, 1, 1, n, head size].
        """
        q, k, v = (one.unflatten(0, (len(lanes), -1)) for one in self._project(x))  # type: ignore[no-untyped-call]
        q, k = rotate(q, *turn), rotate(k, *turn)
        outputs = [_join(self._attend(q[i], *lane.seen(k[i], v[i]))) for i, lane in enumerate(lanes)]
        return self.o_proj(concatenated(outputs))  # type: ignore[no-any-return]

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, heads, N, head size], before rotation."""
        q, k = (self._split(self.q_proj(x), self.heads), self._split(self.k_proj(x), self.kv_heads))
        return self.q_norm(q), self.k_norm(k), self._split(self.v_proj(x), self.kv_heads)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if torch.compiler.is_compiling() and mask is not None and self.heads == self.kv_heads:
            # Short sequences on a CPU: written out, the compiler fuses this into a third of the time of the kernel's
            # backward pass.
            scale: float = self.size**-0.5
            scores = (q * scale) @ k.transpose(-1, -2)
            return scores.masked_fill(~mask, -1e4).softmax(-1).to(v.dtype) @ v
        grouped = self.heads != self.kv_heads
        if grouped and q.is_cuda and q.dtype == torch.float32:
            # No fused kernel takes float32 and groups; the plain one would keep the scores.
            k, v = (one.repeat_interleave(self.heads // self.kv_heads, 1) for one in (k, v))
            grouped = False
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, self.size).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and gated MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim)
        self.gate_proj = nn.Linear(config.dim, config.mlp_dim, bias=False)
        self.up_proj = nn.Linear(config.dim, config.mlp_dim, bias=False)
        self.down_proj = nn.Linear(config.mlp_dim, config.dim, bias=False)

    def forward(self, x: Tensor, turn: KeyValue, past: Sequence[KeyValue], visible: Visible) -> tuple[Tensor, KeyValue]:
        """[B, N, dim] to the same, and this layer's new keys and values."""
        attended, kv = self.self_attn(self.input_layernorm(x), turn, past, visible)
        return self._mlp(x + attended), kv

    def sample(self, x: Tensor, turn: KeyValue, lanes: Sequence[Lane]) -> Tensor:
        """[lanes * B, n, dim] of one scale to the same."""
        return self._mlp(x + self.self_attn.sample(self.input_layernorm(x), turn, lanes))

    def _mlp(self, x: Tensor) -> Tensor:
        h = self.post_attention_layernorm(x)
        gate = F.silu(self.gate_proj(h), inplace=not torch.is_grad_enabled())
        return x + self.down_proj(gate * self.up_proj(h))  # type: ignore[no-any-return]

    def in_turn(
        self, xs: Sequence[Tensor], parts: Sequence[Text | Codes], past: Sequence[KeyValue]
    ) -> tuple[list[Tensor], list[KeyValue]]:
        """``forward`` of stretches one after another, each seeing ``past`` and those before it.

        One call a layer whatever their number, so that weights that are spread over devices are gathered once.
        """
        outputs, pairs = list[Tensor](), list[KeyValue]()
        for x, part in zip(xs, parts, strict=True):
            visible = part.mask if isinstance(part, Text) else part.counts
            out, kv = self.forward(x, part.turn, [*past, *pairs], visible)
            outputs.append(out)
            pairs.append(kv)
        return outputs, pairs


class NextFlowTransformer(Recomputes, nn.Module):
    """Embeddings, blocks and one output head over text and visual codes."""

    def __init__(self, config: NextFlowConfig) -> None:
        super().__init__()
        size, codes = config.transformer, config.tokenizer.codes
        self.text_size = size.text_vocab + SPECIALS
        self.embed_tokens = nn.Embedding(self.text_size, size.dim)
        self.adapter = build_adapter(config)
        self.scale_embedding = nn.Embedding(config.scale_rows or len(config.scales), size.dim)
        self.register_buffer("scale_count", _sinusoid(len(config.scales), size.dim), persistent=False)
        self.layers = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm = RMSNorm(size.dim)
        self.lm_head = nn.Linear(size.dim, self.text_size + codes, bias=False)
        self.apply(initialise)
        for layer in self.layers:
            for last in (layer.self_attn.o_proj, layer.down_proj):  # type: ignore[union-attr]
                nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * size.depth))  # type: ignore[arg-type, union-attr]

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Float [B, N, dim] of int64 [B, N]; <boi> also carries the first scale's embedding and the scale count."""
        boi = (tokens == self.text_size - SPECIALS + BOI)[..., None]
        return self.embed_tokens(tokens) + boi * (self.scale_embedding.weight[0] + self.scale_count)  # type: ignore[no-any-return, operator]

    def embed_codes(self, codes: Tensor, scale: Tensor) -> Tensor:
        """Float [..., N, dim] of upsampled code vectors [..., N, C] and the scale index of each, int64 [N]."""
        vectors = codes.to(self.scale_embedding.weight.dtype)  # the tokenizer's are float32
        return self.adapter(vectors) + self.scale_embedding(scale) + self.scale_count  # type: ignore[no-any-return]

    def forward(
        self, stretches: Sequence[Text | Codes], past: Sequence[Segment] = ()
    ) -> tuple[list[Tensor], list[Segment]]:
        """One job, whole: stretches one after another, each seeing the cached ``past`` and the stretches before it.

        A prompt, a scale that is sampled and a teacher-forced pass are each one call, the place where FSDP2 and
        torch.compile attach. A stretch of one row is shared by all rows of those after it. Returns the normalised
        outputs [B, N, dim] and the cache of each.
        """
        xs = [
            self.embed_text(part.ids) if isinstance(part, Text) else self.embed_codes(part.vectors, part.scale)
            for part in stretches
        ]
        caches, call = [Segment() for _ in stretches], self.block_call(xs, len(self.layers))
        for index, layer in enumerate(self.layers):
            xs, pairs = call(layer.in_turn, xs, stretches, [segment[index] for segment in past])
            for cache, kv in zip(caches, pairs, strict=True):
                cache.append(kv)
        return [self.norm(x) for x in xs], caches

    def run(self, x: Tensor, turn: KeyValue, past: Sequence[Segment], mask: Tensor) -> tuple[Tensor, Segment]:
        """All blocks over one stretch x [B, N, dim], for pretraining, which mixes text and scales in one.

        ``past`` holds, per earlier segment, one (keys, values) a layer. Returns the normalised output and the new
        segment.
        """
        cache = []
        for index, layer in enumerate(self.layers):
            x, kv = layer(x, turn, [segment[index] for segment in past], mask)
            cache.append(kv)
        return self.norm(x), cache

    def sample(self, codes: Codes, caches: Sequence[KVCache], keep: bool) -> Tensor:
        """Normalised outputs [branches, P * B, n, dim] of one scale of B candidates of each of P prompts.

        caches: one for every branch of every prompt, those of a branch next to each other. codes: vectors
        [P, B, n, C], the same in all branches; rotations [1, 1, n, head size] for each cache, stacked, as texts differ
        in length. keep: whether the last n places of the caches are the scale's, to be written; else it sees all.
        """
        x, outputs = self.embed_codes(codes.vectors, codes.scale), []
        prompts, batch, n, _ = x.shape
        branches = len(caches) // prompts
        for some in slices(prompts, batch, n * branches, x.device):
            part = x[some.prompts, some.rows].flatten(0, 1).repeat(branches, 1, 1)
            chosen = some.of(caches, prompts)
            cos, sin = (
                one.view(branches, prompts, *one.shape[1:])[:, some.prompts].flatten(0, 1) for one in codes.turn
            )
            for index, layer in enumerate(self.layers):
                seen = lanes(chosen, index, some.rows, n * keep)
                part = layer.sample(part, (cos, sin), seen)  # type: ignore[operator]
            outputs.append(self.norm(part).unflatten(0, (branches, -1)))
        return concatenated(outputs, 1)

    def visual_head(self) -> Tensor:
        """[codes, dim]: the head's rows of the visual codes."""
        return self.lm_head.weight[self.text_size :]

    def visual_logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., codes] of normalised outputs [..., dim]."""
        return F.linear(hidden, self.visual_head()).to(torch.float32)

    def text_logits(self, hidden: Tensor) -> Tensor:
        """float32 [..., text vocabulary]: the head's text rows."""
        return F.linear(hidden, self.lm_head.weight[: self.text_size]).to(torch.float32)


def _join(heads: Tensor) -> Tensor:
    """[B, heads, N, head size] to [B, N, heads * head size]."""
    return heads.transpose(1, 2).flatten(2)


def build_adapter(config: NextFlowConfig) -> nn.Sequential:
    """Code vectors [..., semantic_dim + pixel_dim] to embeddings [..., dim]."""
    width, dim = config.tokenizer.semantic_dim + config.tokenizer.pixel_dim, config.transformer.dim
    return nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim))


def initialise(module: nn.Module) -> None:
    """Fresh weights of a linear map or an embedding; other modules stay as they are."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _sinusoid(position: int, dim: int) -> Tensor:
    frequency = 10_000 ** (-torch.arange(dim // 2, device="cpu") / (dim // 2))  # real in a module on the meta device
    return 0.02 * math.sqrt(2) * torch.cat([(position * frequency).sin(), (position * frequency).cos()])
