"""How prompts and code indices become transformer inputs and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from varl.policy.base import Grid, cells
from varl.policy.nextflow.quantizer import DualQuantizer, upsample
from varl.policy.nextflow.text import BOI, PAD, SPECIALS, TextTokenizer


def prompt_tokens(prompt: str, text: TextTokenizer, text_size: int) -> list[int]:
    """The prompt's ids, then <boi>. The empty prompt is the unconditional branch."""
    return [*text.encode(prompt), text_size - SPECIALS + BOI]


def padded_prompts(
    prompts: Sequence[str], text: TextTokenizer, text_size: int, multiple: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts padded on the left to one length N, a multiple of ``multiple`` (few lengths suit a compiled pass).

    Returns tokens int64 [B, N], real bool [B, N] (False on padding) and positions float32 [B, N, 3], which count from
    the first real token.
    """
    rows = [prompt_tokens(prompt, text, text_size) for prompt in prompts]
    width = -(-max(len(row) for row in rows) // multiple) * multiple
    pad = text_size - SPECIALS + PAD
    tokens = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    real = tokens != pad
    count = (real.long().cumsum(1) - 1).clamp_min(0).to(torch.float32)
    return tokens, real, count[..., None].expand(-1, -1, 3)


def code_inputs(quantizer: DualQuantizer, scales: Sequence[Tensor], grids: Sequence[Grid]) -> Tensor:
    """Input vectors float32 [B, cells of scales 1 … t, C] out of the indices of scales 0 … t-1.

    The input of a scale is the residual code of the scale before, looked up and upsampled to this scale's grid, not
    accumulated.
    """
    parts = []
    for index, grid in zip(scales, grids[1 : len(scales) + 1], strict=True):
        parts.append(upsample(quantizer.lookup(index), grid).flatten(2).transpose(1, 2))
    return torch.cat(parts, dim=1)


def block_causal(grids: Sequence[Grid], device: torch.device | None = None) -> Tensor:
    """Bool [N, N], True where a token may look: its own scale whole, and all earlier ones."""
    scale = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor(cells(grids))).to(device)
    return scale[:, None] >= scale[None, :]


def sequence_mask(real: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Bool [B, 1, N, N] over [text, visual inputs]: text causal, visual block-causal, padding never looked at.

    real: bool [B, text]. A padding row looks at itself, so that no row is empty.
    """
    text = real.shape[1]
    visual = block_causal(grids)
    n = text + len(visual)
    mask = torch.zeros(n, n, dtype=torch.bool)
    mask[:text, :text] = torch.ones(text, text, dtype=torch.bool).tril()
    mask[text:, :text] = True
    mask[text:, text:] = visual
    seen = F.pad(real, (0, len(visual)), value=True)
    return (mask[None] & seen[:, None, :] | torch.eye(n, dtype=torch.bool))[:, None]
