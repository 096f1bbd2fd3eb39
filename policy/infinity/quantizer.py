"""Binary spherical quantisation over scales: bits to latents, latents to bits, and what a scale is predicted from.

All of it is float32 arithmetic without parameters (arXiv 2412.04431, section 3.2; FoundationVision/Infinity,
infinity/models/bsq_vae/multiscale_bsq.py and infinity/models/bitwise_self_correction.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from varl.policy.base import Grid
from varl.policy.distributions import pack_bits, unpack_bits
from varl.policy.infinity.config import TokenizerConfig
from varl.policy.schedule import split_scales


class Quantizer:
    """Tokens of ``grids``, and latents [B, bits, H, W] of the last grid's size in cells of the latent.

    Where the tokenizer is patchified a token's 2 x 2 cells are folded into its bits: bit 4 c + 2 i + j is channel c at
    row i, column j.
    """

    def __init__(self, config: TokenizerConfig, grids: Sequence[Grid]) -> None:
        self.grids, self.bits = tuple(grids), config.bits
        self.bits_per_site, self._fold = config.bits_per_site, config.cells_a_side
        self.sizes = [(h * self._fold, w * self._fold) for h, w in grids]

    def codes(self, tokens: Tensor) -> Tensor:
        """Codes float32 [B, bits, H, W], on the unit sphere, of one scale's tokens int64 [B, h, w]."""
        bits = unpack_bits(tokens, self.bits_per_site)
        cells = F.pixel_shuffle(bits.permute(0, 3, 1, 2).to(torch.float32), self._fold).permute(0, 2, 3, 1)
        # Normalised once more, as the published code does, which moves the last digit.
        return F.normalize((2 * cells - 1) * self.bits**-0.5, dim=-1).permute(0, 3, 1, 2)

    def add(self, canvas: Tensor | None, tokens: Tensor) -> Tensor:
        """The sum of codes float32 [B, bits, H, W] with one scale more, int64 [B, h, w]; None: the first scale."""
        codes = resize(self.codes(tokens), self.sizes[-1])
        return codes if canvas is None else canvas + codes

    def accumulate(self, tokens: Tensor) -> Tensor:
        """The sum of codes float32 [B, bits, H, W] of token sequences int64 [B, n], whole or of the first scales."""
        canvas = None
        for scale in split_scales(tokens, self.grids):
            canvas = self.add(canvas, scale)
        if canvas is None:
            raise ValueError("there are no tokens")
        return canvas

    def inputs(self, canvas: Tensor, scale: int) -> Tensor:
        """What a scale is predicted from, float32 [B, h * w, bits_per_site]: the sum of the codes of those before it.

        It is resized bilinearly, also downwards. The tokenizer's own downsampling, by area, is not what the published
        models were trained on.
        """
        return F.pixel_unshuffle(resize(canvas, self.sizes[scale]), self._fold).flatten(2).transpose(1, 2)

    def encode(self, features: Tensor) -> Tensor:
        """Tokens int64 [B, n] of features float32 [B, bits, H, W]: scale by scale the signs of what is left.

        A feature of exactly zero is the bit 0.
        """
        residual, parts = features.to(torch.float32), []
        for size in self.sizes:
            seen = residual if size == self.sizes[-1] else F.interpolate(residual, size=size, mode="area")
            folded = F.pixel_unshuffle((seen > 0).to(torch.float32), self._fold)
            tokens = pack_bits(folded.permute(0, 2, 3, 1) > 0)
            residual = residual - resize(self.codes(tokens), self.sizes[-1])
            parts.append(tokens.flatten(1))
        return torch.cat(parts, 1)


def resize(latent: Tensor, size: Grid) -> Tensor:
    """Bilinear, without antialiasing, of float [B, C, h, w]; the same size is left as it is.

    The published code sees an image as a video of one frame; its trilinear kernel differs from the bilinear one in the
    last digit, so it is used here as well.
    """
    if tuple(latent.shape[-2:]) == tuple(size):
        return latent
    return F.interpolate(latent[:, :, None], size=(1, *size), mode="trilinear", align_corners=False)[:, :, 0]
