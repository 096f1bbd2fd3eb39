"""A model of one's own in one file: pictures of 8 x 8 coloured cells, painted scale by scale.

Each token is one of 27 colour steps (down, stay or up in red, green and blue) for a cell of its scale, and the picture
is the sum of all scales: next-scale prediction in its smallest form. What the trainer needs of it is
``varl.policy.base.TrainablePolicy``; policy/README.md says what each part must keep, and its conformance suite checks.

    python -m varl.examples.palette runs/palette_base
    varl demo --recipe examples/palette.toml --run-dir runs/palette
"""

import json
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy.base import Sampled, SamplingParams, cells, index_bits
from varl.policy.distributions import Categorical, Guidance
from varl.policy.images import to_pixels
from varl.policy.sampling import check_request, choices, draw, guidance, guided, site_guidance, uniforms
from varl.policy.schedule import split_scales
from varl.policy.trained_module import TrainedModule

GRIDS = ((1, 1), (2, 2), (4, 4), (8, 8))
WIDTH, CELL = 32, 8  # of the hidden vectors; pixels of a cell's side
STEPS = 0.6 * torch.tensor(list(product((-1.0, 0.0, 1.0), repeat=3)))  # float32 [27, 3]: what each code adds


class Painter(nn.Module):
    """What is trained; ``forward`` is one scale."""

    def __init__(self):
        super().__init__()
        self.text = nn.Embedding(257, WIDTH)
        self.scale = nn.Embedding(len(GRIDS), WIDTH)
        self.canvas = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, len(STEPS), bias=False)

    def forward(self, text: Tensor, canvas: Tensor, scale: int) -> Tensor:
        """Logits [B, h * w, 27] of a scale, of text int64 [length] and the canvas so far [B, 3, 8, 8]."""
        seen = F.adaptive_avg_pool2d(canvas, GRIDS[scale]).to(self.head.weight.dtype)
        hidden = self.canvas(seen).flatten(2).transpose(1, 2) + self.text(text).mean(0) + self.scale.weight[scale]
        return self.head(self.norm(torch.tanh(hidden)))


@dataclass(frozen=True)
class State:
    """All that the model remembers: the texts, and the sum of the scales so far, float32 [B, 3, 8, 8]."""

    text: Tensor
    empty: Tensor | None
    canvas: Tensor
    next_scale: int = 0

    @property
    def batch(self):
        """Number of candidates."""
        return len(self.canvas)

    def fork(self, copies):
        """Every candidate ``copies`` times."""
        return replace(self, canvas=self.canvas.repeat_interleave(copies, 0))


class Palette(TrainedModule):
    """Implements varl.policy.base.TrainablePolicy."""

    grids = GRIDS
    image_size = (CELL * GRIDS[-1][0], CELL * GRIDS[-1][1])
    codes = len(STEPS)
    bits_per_site = index_bits(len(STEPS))
    lora_targets = ("head",)

    def __init__(self, device="cpu", dtype=torch.float32, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = Painter().to(device, dtype)
        self._device, self._steps = device, STEPS.to(device)

    def prefill(self, prompt, guided):
        """See Policy."""
        canvas = torch.zeros(1, 3, *GRIDS[-1], device=self._device)
        return State(self._text(prompt), self._text("") if guided else None, canvas)

    @torch.no_grad()
    def sample(self, state, to_scale, seeds, params, log_probs="plain"):
        """See Policy."""
        check_request(state, to_scale, len(GRIDS), seeds, params, state.empty is not None)
        state, parts = state.fork(len(seeds) // state.batch), []
        for scale in range(state.next_scale, to_scale):
            logits, other = self._logits(state.text, state.canvas, scale), None
            wanted = logits
            if state.empty is not None and params.cfg > 0:
                other = self._logits(state.empty, state.canvas, scale)
                wanted = guided(logits, other, guidance(params, scale, len(GRIDS)))
            noise = uniforms(seeds, scale, logits.shape[1]).to(self._device)
            weights, codes = choices(wanted, params)
            drawn = draw(weights, noise[..., None])
            tokens = (drawn if codes is None else codes.gather(-1, drawn))[..., 0]
            asked = SamplingParams() if log_probs == "plain" else params
            said = self._said(logits, other, range(scale, scale + 1), asked)
            parts.append(Sampled(tokens, said.log_prob(tokens)))
            canvas = state.canvas + self._painted(tokens.view(-1, *GRIDS[scale]))
            state = replace(state, canvas=canvas, next_scale=scale + 1)
        return state, Sampled.joined(parts)

    def distribution(self, prompt, tokens, from_scale, sampling=None):
        """See Policy."""
        params = sampling or SamplingParams()
        scales = split_scales(tokens, GRIDS)
        logits = self._teach(prompt, scales, from_scale)
        other = self._teach("", scales, from_scale) if params.cfg > 0 else None
        return self._said(logits, other, range(from_scale, len(scales)), params)

    @torch.no_grad()
    def decode(self, tokens):
        """See Policy; the canvas, squeezed into [-1, 1]."""
        canvas = sum(self._painted(codes) for codes in split_scales(tokens.to(self._device), GRIDS))
        return to_pixels(F.interpolate(torch.tanh(canvas), scale_factor=CELL))

    decode_partial = decode

    def _teach(self, prompt, scales, from_scale):
        canvas, logits = torch.zeros(len(scales[0]), 3, *GRIDS[-1], device=self._device), []
        for scale, codes in enumerate(scales):
            if scale >= from_scale:
                logits.append(self._logits(self._text(prompt), canvas, scale))
            canvas = canvas + self._painted(codes.to(self._device))
        return torch.cat(logits, 1)

    def _said(self, logits, other, scales, params):
        """The distribution of these scales, from logits with the prompt and, where guided, without it."""
        strength = site_guidance(params, GRIDS, scales, self._device)
        guide = None if other is None or params.cfg == 0 else Guidance(other, strength)
        return Categorical(logits, temperature=params.temperature, guidance=guide)

    def _logits(self, text, canvas, scale):
        return self.module(text, canvas, scale).float()

    def _painted(self, codes):
        """What a scale's codes int64 [B, h, w] add to the canvas, float32 [B, 3, 8, 8]."""
        return F.interpolate(self._steps[codes].permute(0, 3, 1, 2), size=GRIDS[-1])

    def _text(self, prompt):
        return torch.tensor([256, *prompt.encode()], device=self._device)


def load(folder, device, dtype):
    """The loader that a recipe names: ``model.plugin = "varl.examples.palette:load"``."""
    policy = Palette(device, dtype)
    policy.load_weights(folder / "policy.safetensors")
    return policy


def main(folder):
    """Write a model folder with random weights, which is what training starts from."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"architecture": "palette", "tokens": sum(cells(GRIDS))}))
    Palette(seed=1).save_weights(folder / "policy.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
