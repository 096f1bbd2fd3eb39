"""The text half of Qwen2-VL: a causal decoder over image and text tokens that answers for one position of each row.

Positions count 0, 1, 2, … through image and text alike: HPSv3 was trained that way, and Qwen2-VL's own three-axis
positions give other scores. Rows are padded on the right, which causal attention never sees, so that no mask is needed.
Parameters have the names of the checkpoint.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

from varl.services.hpsv3.vision import Rotation, rotate


class RMSNorm(nn.Module):
    """Scales to a root mean square of one, reckoned in float32."""

    def __init__(self, config: Qwen2VLTextConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(config.hidden_size))
        self.eps = config.rms_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        """[…, D] to […, D]."""
        exact = x.float()
        return self.weight * (exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class Attention(nn.Module):
    """Causal attention; several query heads share one head of keys and values."""

    def __init__(self, config: Qwen2VLTextConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        self.size = config.hidden_size // heads
        shared = (config.num_key_value_heads or heads) * self.size
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, shared)
        self.v_proj = nn.Linear(config.hidden_size, shared)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def _heads(self, states: Tensor) -> Tensor:
        """[B, L, heads · size] to [B, heads, L, size]."""
        return states.view(*states.shape[:2], -1, self.size).transpose(1, 2)

    def forward(self, x: Tensor, rotation: Rotation, last: Tensor | None) -> Tensor:
        """[B, L, D] to [B, L, D]; to [B, 1, D] for the positions ``last`` [B] alone if those are given."""
        key, value = rotate(self._heads(self.k_proj(x)), rotation), self._heads(self.v_proj(x))
        if last is None:
            query = rotate(self._heads(self.q_proj(x)), rotation)
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        else:
            cosine, sine = (part[last][:, None, None] for part in rotation)
            query = rotate(self._heads(self.q_proj(at(x, last))), (cosine, sine))
            seen = torch.arange(x.shape[1], device=x.device) <= last[:, None]
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=seen[:, None, None], enable_gqa=True
            )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


def at(x: Tensor, places: Tensor) -> Tensor:
    """[B, 1, D]: of each row of ``x`` [B, L, D] the position that ``places`` [B] names."""
    return x[torch.arange(x.shape[0], device=x.device), places].unsqueeze(1)


class MLP(nn.Module):
    """Gated linear unit."""

    def __init__(self, config: Qwen2VLTextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and MLP, each on normalised input and added to the stream."""

    def __init__(self, config: Qwen2VLTextConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config)
        self.post_attention_layernorm = RMSNorm(config)

    def forward(self, x: Tensor, rotation: Rotation, last: Tensor | None) -> Tensor:
        """[B, L, D] to [B, L, D], or to [B, 1, D] as ``Attention`` does."""
        stream = x if last is None else at(x, last)
        stream = stream + self.self_attn(self.input_layernorm(x), rotation, last)
        out: Tensor = stream + self.mlp(self.post_attention_layernorm(stream))
        return out


class Decoder(nn.Module):
    """Token embeddings to the state at one position of each row."""

    def __init__(self, config: Qwen2VLTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config)

    def forward(self, embeddings: Tensor, last: Tensor) -> Tensor:
        """[B, L, D] to [B, D]: the state at the positions ``last`` [B]; what stands after them changes nothing.

        The last layer asks for those positions alone, as nothing reads the others.
        """
        rotation = self._rotation(embeddings)
        x = embeddings
        final = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, last if index == final else None)
        out: Tensor = self.norm(x.squeeze(1))
        return out

    def _rotation(self, embeddings: Tensor) -> Rotation:
        """For the positions 0 … L-1, in the embeddings' dtype."""
        size = self.config.hidden_size // self.config.num_attention_heads
        theta = float(self.config.rope_parameters["rope_theta"])  # type: ignore[index,arg-type]
        device = embeddings.device
        frequency = 1.0 / theta ** (torch.arange(0, size, 2, dtype=torch.float32, device=device) / size)
        angles = torch.outer(torch.arange(embeddings.shape[1], dtype=torch.float32, device=device), frequency).repeat(
            1, 2
        )
        return angles.cos().to(embeddings.dtype), angles.sin().to(embeddings.dtype)
