"""The vision half of Qwen2-VL: patches to image tokens. Attention stays within each image without any mask.

Images of one size go through as a batch [B, P, …]: nothing of one image can reach another, and the attention kernels
that take no mask can be used. Parameters have the names of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

from varl.services.hpsv3.preprocess import CELL, MERGE, PATCH, TEMPORAL, patchify

Rotation = tuple[Tensor, Tensor]  # cosine and sine, each [positions, head size]


def rotate(states: Tensor, rotation: Rotation) -> Tensor:
    """Rotary embedding of ``states`` [B, heads, positions, head size]."""
    cosine, sine = rotation
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine


class PatchEmbedding(nn.Module):
    """A linear map of each patch; kept as the convolution that the checkpoint has."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, config.embed_dim, (TEMPORAL, PATCH, PATCH), (TEMPORAL, PATCH, PATCH), bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, P, PATCH_VALUES] to [B, P, E]."""
        return functional.linear(patches, self.proj.weight.flatten(1))


class VisionAttention(nn.Module):
    """Every patch of an image attends to every patch of the same image."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """[B, P, E] to [B, P, E]."""
        batch, length, width = x.shape
        query, key, value = (
            self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        query, key = (rotate(states.float(), rotation).to(x.dtype) for states in (query, key))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class VisionMLP(nn.Module):
    """Two linear maps with the sigmoid approximation of GELU between them."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__()
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, E] to [B, P, E]."""
        hidden = self.fc1(x)
        out: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))
        return out


class VisionBlock(nn.Module):
    """Attention and MLP, each on normalised input and added to the stream."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """[B, P, E] to [B, P, E]."""
        x = x + self.attn(self.norm1(x), rotation)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Merger(nn.Module):
    """Joins the MERGE x MERGE patches of a token, which follow each other, and maps them to the decoder's width."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__()
        self.width = config.embed_dim * MERGE * MERGE
        self.ln_q = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(self.width, self.width), nn.GELU(), nn.Linear(self.width, config.hidden_size)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, P, E] to [B, P / MERGE², D]."""
        out: Tensor = self.mlp(self.ln_q(x).view(x.shape[0], -1, self.width))
        return out


class VisionTower(nn.Module):
    """Images to image tokens."""

    def __init__(self, config: Qwen2VLVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config)

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Image tokens [H·W / CELL², D], one tensor for each image uint8 [3, H, W], in their order.

        Sizes may differ.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(tuple(image.shape), []).append(index)
        found: dict[int, Tensor] = {}
        for indices in groups.values():
            found.update(zip(indices, self._equal(torch.stack([images[index] for index in indices])), strict=True))
        return [found[index] for index in range(len(images))]

    def _equal(self, images: Tensor) -> Tensor:
        """Images of one size [B, 3, H, W] to [B, H·W / CELL², D].

        The bytes go to the device, the numbers are made there.
        """
        weight = self.patch_embed.proj.weight
        x = self.patch_embed(patchify(images.to(weight.device), weight.dtype))
        rotation = self._rotation(images.shape[-2] // CELL, images.shape[-1] // CELL)
        for block in self.blocks:
            x = block(x, rotation)
        out: Tensor = self.merger(x)
        return out

    def _rotation(self, rows: int, columns: int) -> Rotation:
        """Half of each head turns with a patch's row, half with its column.

        Float32, patches in the order of ``patchify``.
        """
        device = self.patch_embed.proj.weight.device
        half = self.config.embed_dim // self.config.num_heads // 2
        theta = float(self.config.rope_parameters["rope_theta"])  # type: ignore[index]
        frequency = 1.0 / theta ** (torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
        row, column = (torch.arange(count * MERGE, device=device).view(count, MERGE) for count in (rows, columns))
        shape = (rows, columns, MERGE, MERGE)
        places = (row[:, None, :, None].expand(shape), column[None, :, None, :].expand(shape))
        angles = torch.cat([place.reshape(-1, 1).float() * frequency for place in places], dim=-1).repeat(1, 2)
        return angles.cos(), angles.sin()
