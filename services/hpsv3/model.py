"""The reward model: images and token ids in, mean and log of the standard deviation of a person's preference out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

from varl.services.hpsv3.decoder import Decoder
from varl.services.hpsv3.vision import VisionTower

UNUSED = "lm_head.weight"  # [vocabulary, D]; HPSv3's files carry Qwen2-VL's next-token head, which scoring never runs


class CheckpointError(Exception):
    """A file does not hold the weights of this model; the message says what differs."""


class RewardModel(nn.Module):
    """Qwen2-VL with a head of two numbers. Its parameters have HPSv3's names.

    The head and its answer stay float32 whatever ``to`` the rest is moved to: use ``set_dtype``.
    """

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__()
        if config.tie_word_embeddings:
            raise ValueError("tie_word_embeddings: HPSv3's checkpoint format has the two tables apart")
        text = config.text_config
        self.image_id: int = config.image_token_id
        self.visual = VisionTower(config.vision_config)  # type: ignore[arg-type]
        self.model = Decoder(text)  # type: ignore[arg-type]
        self.apply(lambda module: _initialise(module, text.initializer_range))  # type: ignore[union-attr]
        self.rm_head = nn.Sequential(
            nn.Linear(text.hidden_size, 1024),  # type: ignore[union-attr]
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Move everything but the head to ``dtype``."""
        self.visual.to(dtype)
        self.model.to(dtype)

    def forward(self, images: Sequence[Tensor], token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Score each image as an answer to the text around it; differentiable where gradients are on.

        Args:
            images: uint8 [3, H, W] each, on any device, sides multiples of 28; sizes may differ.
            token_ids: one row per image that ends at the reward token, with as many image tokens as the image has (H·W
                / 28²).

        Returns:
            float32 [B, 2]: mu, unbounded, the higher the better liked; and log sigma.

        Raises:
            ValueError: not one row per image, or a row with another number of image tokens.

        """
        if len(images) != len(token_ids) or not images:
            raise ValueError(
                f"{len(images)} images and {len(token_ids)} rows of token ids; one row per image is wanted"
            )
        embedded = self._embed(images, token_ids)
        last = torch.tensor([len(row) - 1 for row in token_ids]).to(embedded.device)
        out: Tensor = self.rm_head(self.model(embedded, last).float())
        return out

    def _embed(self, images: Sequence[Tensor], token_ids: Sequence[Sequence[int]]) -> Tensor:
        """[B, longest row, D]: rows padded on the right, image tokens filled in."""
        features = self.visual(images)
        for index, (row, feature) in enumerate(zip(token_ids, features, strict=True)):
            if row.count(self.image_id) != len(feature):
                raise ValueError(
                    f"row {index} has {row.count(self.image_id)} image tokens, its image has {len(feature)}"
                )
        length = max(map(len, token_ids))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in token_ids]).to(features[0].device)
        embedded: Tensor = self.model.embed_tokens(ids)
        return embedded.masked_scatter((ids == self.image_id).unsqueeze(-1), torch.cat(features).to(embedded.dtype))


def _initialise(module: nn.Module, deviation: float) -> None:
    """Weights for training from nothing; norms keep their ones and zeros."""
    if isinstance(module, (nn.Linear, nn.Embedding, nn.Conv3d)):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def save_checkpoint(model: RewardModel, path: Path) -> None:
    """Write the weights in HPSv3's format, whole or not at all; the hpsv3 package takes the file as well.

    The unused next-token head, which the package insists on, is written as zeros.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    tensors[UNUSED] = torch.zeros_like(tensors["model.embed_tokens.weight"])
    partial = path.with_name(f".{path.name}.partial")
    safetensors.torch.save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(path)


def load_checkpoint(model: RewardModel, path: Path) -> None:
    """Copy the weights of a file in HPSv3's format into ``model``, on its device and in its dtypes, a tensor at a time.

    Raises:
        CheckpointError: no such file, no safetensors, a tensor is missing, unknown or of another shape.

    """
    wanted = model.state_dict()  # shares the parameters' memory
    try:
        with safetensors.safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _compare(shapes, wanted, path)
            for name, tensor in wanted.items():
                tensor.copy_(file.get_tensor(name))
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _compare(found: dict[str, tuple[int, ...]], wanted: dict[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    expected[UNUSED] = expected["model.embed_tokens.weight"]
    faults = [f"lacks {name}" for name in expected if name not in found]
    faults += [f"has the unknown {name}" for name in found if name not in expected]
    faults += [
        f"has {name} as {list(found[name])}, the model as {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more differences" if len(faults) > 5 else ""
        raise CheckpointError(f"{path} is not a checkpoint of this model: it {'; it '.join(faults[:5])}{more}")
