"""Trains the tiny tokenizer.

The semantic teacher by which letter covers a cell, then both codebooks, pixel encoder and decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from varl.policy.nextflow.quantizer import DualQuantizer, Encoded, upsample
from varl.policy.nextflow.tokenizer import Tokenizer
from varl.tiny.precision import autocast
from varl.tiny.pretrain.schedule import StepLog, cosine_lr
from varl.tiny.pretrain.stage import Stage
from varl.tiny.render import Rendered

TEXT_WEIGHT = 4.0  # pixels near ink count this much more, as faces do in the paper's tokenizer training
LEGIBLE = 0.05  # weight of the letters that the teacher reads: about half of the loss at the end
IGNORED = -100
COMMIT = 0.25  # TokenFlow's commitment weight
CODE_DECAY = 0.99  # exponential moving average of codebook statistics
DEAD_BELOW = 0.5  # a code used less often than this a batch is moved to a random residual


def to_images(batch: Sequence[Rendered]) -> Tensor:
    """Float32 [B, 3, H, W] in [-1, 1]."""
    stacked = np.stack([item.image for item in batch])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def cell_letters(batch: list[Rendered], stride: int) -> Tensor:
    """int64 [B, h, w]: the letter with most ink in each cell (1 + index in A-Z), 0 where a cell has next to none."""
    letters = torch.from_numpy(np.stack([item.letters for item in batch])).long()
    counts = F.one_hot(letters, 27).permute(0, 3, 1, 2).float()
    share = F.avg_pool2d(counts, stride)
    share[:, 0] = 0.06
    return share.argmax(1)


def train_semantic(tokenizer: Tokenizer, stride: int, stage: Stage) -> None:
    """Teach the semantic encoder which letter covers each cell, by cross-entropy; it is frozen afterwards."""
    encoder = tokenizer.semantic_encoder
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3, weight_decay=0.01)
    progress = StepLog("semantic teacher", stage.steps, stage.log)
    for step, rng in stage.left(encoder=encoder, optimizer=optimizer):
        cosine_lr(optimizer, 2e-3, step, stage.steps)
        items = stage.draw(stage.batch, rng)
        labels = cell_letters(items, stride)
        with autocast():
            scores = encoder.classify(encoder(to_images(items))).float()
        loss = F.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        hit = (scores.argmax(1) == labels)[labels > 0].float().mean().item()
        progress.update(step, loss=loss.item(), letter_cells_right=hit)
    encoder.requires_grad_(False)


def train_tokenizer(tokenizer: Tokenizer, stride: int, stage: Stage) -> None:
    """Train everything but the semantic teacher.

    The loss is reconstruction in pixels and in semantic features, commitment, and what the teacher reads in the decoded
    picture.
    """
    trained = [p for name, p in tokenizer.named_parameters() if not name.startswith(("semantic_encoder", "quantizer"))]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    statistics = CodeStatistics(tokenizer.quantizer)
    progress = StepLog("tokenizer", stage.steps, stage.log)
    for step, rng in stage.left(tokenizer=tokenizer, optimizer=optimizer, statistics=statistics):
        cosine_lr(optimizer, 1e-3, step, stage.steps)
        items = stage.draw(stage.batch, rng)
        images = to_images(items)
        with autocast():
            features = tokenizer.features(images)
        encoded = tokenizer.quantizer.encode(features.detach(), tokenizer.grids)
        straight = features.float() + (encoded.quantized.detach() - features.float()).detach()
        with autocast():
            pixels = tokenizer.decode_features(straight).float()
            semantic = tokenizer.semantic_decoder(straight[:, : tokenizer.quantizer.semantic.shape[1]]).float()
        reconstruction = pixel_loss(pixels, images, items)
        commit = F.mse_loss(features.float(), encoded.quantized.detach())
        meaning = F.mse_loss(semantic, features[:, : semantic.shape[1]].float().detach())
        legible = letter_loss(tokenizer, pixels, cell_letters(items, stride))
        loss = reconstruction + COMMIT * commit + 0.1 * meaning + LEGIBLE * legible
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        statistics.update(features.detach().float(), encoded, tokenizer.grids, last=step > 0.85 * stage.steps)
        progress.update(
            step,
            loss=loss.item(),
            pixel=reconstruction.item(),
            commit=commit.item(),
            letters=legible.item(),
            codes_used=statistics.used(),
        )


def pixel_loss(pixels: Tensor, images: Tensor, items: list[Rendered]) -> Tensor:
    """Mean absolute plus squared error, ink and its surroundings weighted by TEXT_WEIGHT."""
    ink = torch.from_numpy(np.stack([item.letters for item in items]) > 0).float()[:, None]
    weight = 1 + (TEXT_WEIGHT - 1) * F.max_pool2d(ink, 5, stride=1, padding=2)
    error = (pixels - images).abs() + (pixels - images).pow(2)
    return (weight * error).sum() / (weight.sum() * 3)


def letter_loss(tokenizer: Tokenizer, pixels: Tensor, letters: Tensor) -> Tensor:
    """Cross-entropy of the semantic teacher on decoded pictures [B, 3, H, W], over the cells with a letter.

    letters: int64 [B, h, w] as cell_letters gives them. Pixels alone leave an F that could be an E.
    """
    with autocast():
        scores = tokenizer.semantic_encoder.classify(tokenizer.semantic_encoder(pixels)).float()
    return F.cross_entropy(scores, letters.masked_fill(letters == 0, IGNORED), ignore_index=IGNORED)


class CodeStatistics:
    """Moves codes to the running mean of the residual cells that chose them, and dead codes onto live residuals."""

    def __init__(self, quantizer: DualQuantizer) -> None:
        self.quantizer = quantizer
        codes, width = quantizer.table().shape
        self.counts = torch.ones(codes)
        self.sums = quantizer.table().detach().clone()
        self.rng = torch.Generator().manual_seed(0)
        self.width = width

    def used(self) -> float:
        """Share of codes that are alive."""
        return (self.counts > DEAD_BELOW).float().mean().item()

    def state_dict(self) -> dict[str, Any]:
        """Counts, sums and random numbers; the codes themselves are the quantizer's."""
        return {"counts": self.counts, "sums": self.sums, "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what state_dict gave."""
        self.counts, self.sums = state["counts"], state["sums"]
        self.rng.set_state(state["rng"])

    @torch.no_grad()
    def update(self, features: Tensor, encoded: Encoded, grids: tuple[tuple[int, int], ...], last: bool) -> None:
        """One moving-average step; in the ``last`` part of training dead codes stay where they are."""
        cells, chosen = self._residual_cells(features, encoded, grids)
        counts = torch.bincount(chosen, minlength=len(self.counts)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, cells)
        self.counts.mul_(CODE_DECAY).add_(counts, alpha=1 - CODE_DECAY)
        self.sums.mul_(CODE_DECAY).add_(sums, alpha=1 - CODE_DECAY)
        dead = (self.counts < DEAD_BELOW).nonzero().flatten()
        if len(dead) and not last:
            picked = cells[torch.randint(len(cells), (len(dead),), generator=self.rng)]
            self.counts[dead], self.sums[dead] = 1.0, picked
        table = self.sums / self.counts.clamp_min(1e-3)[:, None]
        semantic = self.quantizer.semantic.shape[1]
        self.quantizer.semantic.copy_(table[:, :semantic])
        self.quantizer.pixel.copy_(table[:, semantic:])

    def _residual_cells(
        self, features: Tensor, encoded: Encoded, grids: tuple[tuple[int, int], ...]
    ) -> tuple[Tensor, Tensor]:
        residual, cells, chosen = features, [], []
        for grid, index in zip(grids, encoded.inputs, strict=True):
            cells.append(F.interpolate(residual, size=grid, mode="area").permute(0, 2, 3, 1).reshape(-1, self.width))
            chosen.append(index.flatten())
            residual = residual - upsample(self.quantizer.lookup(index), features.shape[-2:])
        return torch.cat(cells), torch.cat(chosen)
