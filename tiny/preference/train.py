"""Second and third stage.

The decoder, then the whole model, learn to prefer the better picture of a pair, by HPSv3's loss.
Beside that, a classifier that is thrown away afterwards asks of each colour, object and letter in the prompt whether
the picture shows it. A preference says once per pair what this says ten times; without it, the model takes no notice of
words in the time it has here. A third term asks the first layer for the letter before each letter of the prompt, in the
code in which the vision half gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from varl.services.hpsv3.preprocess import resize, token_count
from varl.tiny.precision import autocast
from varl.tiny.preference.base import Base
from varl.tiny.preference.facts import before, matches, read_prompt
from varl.tiny.preference.letters import named
from varl.tiny.preference.loss import draw_noise, uncertainty_loss
from varl.tiny.preference.pairs import CONTENT_SHARES, Pair, draw_pairs, mirrored
from varl.tiny.pretrain.schedule import StepLog, cosine_lr
from varl.tiny.render import Pixels

WORDS_LR, PAIRS_LR = 2e-3, 1e-3
MATCH_WEIGHT, BEFORE_WEIGHT = 2.0, 0.2


class PromptProbe(nn.Module):
    """What the decoder says of the tokens of a prompt that a picture can show: see the two losses."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.vocabulary = base.vocabulary
        self.table = (base.model.model.embed_tokens,)  # in a tuple, lest it become a part of this module
        self.linear = nn.Linear(base.model.model.config.hidden_size, 1)
        self.states: dict[int, Tensor] = {}
        layers = base.model.model.layers
        self._hooks = [layers[index].register_forward_pre_hook(self._keep(index)) for index in (1, len(layers) - 1)]
        self._last = len(layers) - 1

    def detach(self) -> None:
        """Let go of the model."""
        for hook in self._hooks:
            hook.remove()

    def _keep(self, index: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.states[index] = inputs[0]

        return keep

    def match_loss(self, rows: Sequence[Sequence[int]], known: Sequence[Sequence[bool]]) -> tuple[Tensor, float]:
        """Cross-entropy of whether the picture shows a token of the prompt, at the last layer's input.

        Also the share that is right.

        Args:
            rows: token ids of the batch of the last forward.
            known: for each row what ``matches`` says; empty to leave the row out.

        """
        found = [
            (*place, match)
            for i, flags in enumerate(known)
            if flags
            for place, match in zip(self._places(rows, i)[-len(flags) :], flags, strict=True)
        ]
        row, place, match = (torch.tensor(part) for part in zip(*found, strict=True))
        said = self.linear(self.states[self._last][row, place].float()).squeeze(-1)
        right = ((said > 0) == match).float().mean().item()
        return functional.binary_cross_entropy_with_logits(said, match.float()), right

    def before_loss(self, rows: Sequence[Sequence[int]], texts: Sequence[str]) -> tuple[Tensor, float]:
        """Cross-entropy of the letter before each letter of the prompts, at the second layer's input.

        Also the share that is right.
        """
        letters = set(self.vocabulary.letters)
        places = [place for i, ids in enumerate(rows) for place in self._places(rows, i) if ids[place[1]] in letters]
        row, place = (torch.tensor(part) for part in zip(*places, strict=True))
        labels = torch.tensor(
            [max(0, ord(letter) - 64) for text in texts for letter in before(read_prompt(text).words)]
        )
        said = named(self.states[1][row, place].float(), self.table[0].weight, self.vocabulary, before_only=True)[
            "before"
        ]
        return functional.cross_entropy(said, labels), (said.argmax(-1) == labels).float().mean().item()

    def _places(self, rows: Sequence[Sequence[int]], row: int) -> list[tuple[int, int]]:
        """Row and position of each of its tokens that a picture can show; the prompt's are the last ones."""
        return [(row, place) for place, token in enumerate(rows[row]) if token in self.vocabulary.asked]


def forward(base: Base, images: Sequence[Pixels], texts: Sequence[str]) -> tuple[Tensor, list[list[int]]]:
    """Scores float32 [B, 2] of pictures uint8 [H, W, 3] for their prompts, and the token ids."""
    resized = [resize(image) for image in images]
    rows = [base.prompts.token_ids(text, token_count(image)) for text, image in zip(texts, resized, strict=True)]
    with autocast():
        return base.model(resized, rows).float(), rows


def pair_loss(base: Base, probe: PromptProbe, pairs: Sequence[Pair], noise: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch, and its parts with the share of pairs in the right order.

    ``noise`` as ``uncertainty_loss`` takes it.
    """
    texts = [pair.prompt for pair in pairs]
    scores, rows = forward(base, [pair.better for pair in pairs] + [pair.worse for pair in pairs], 2 * texts)
    better, worse = scores.chunk(2)
    known = [matches(pair.prompt, None if pair.graded else pair.prompt) for pair in pairs]
    known += [matches(pair.prompt, pair.shown) for pair in pairs]
    preference = uncertainty_loss(better, worse, noise)
    match, seen = probe.match_loss(rows, known)
    left, read = probe.before_loss(rows, 2 * texts)
    order = (better[:, 0] > worse[:, 0]).float().mean().item()
    parts = {"preference": preference.item(), "order": order, "match": match.item(), "seen": seen, "before": read}
    return preference + MATCH_WEIGHT * match + BEFORE_WEIGHT * left, parts


def train_words(base: Base, steps: int, batch: int, seed: int, log: Callable[[str], None]) -> None:
    """Train on ``batch`` pairs of right and wrong content a step.

    The vision half stays as it is and most of the instruction is left out, which saves two thirds of the time. Half of
    the pairs are the other half with prompts and places exchanged, so that only the prompt tells which picture is
    better.
    """
    base.model.visual.requires_grad_(False)
    short = replace(base, prompts=base.short_prompts)

    def draw(rng: np.random.Generator) -> list[Pair]:
        pairs = draw_pairs(batch // 2, rng, CONTENT_SHARES)
        return [*pairs, *map(mirrored, pairs)]

    for _ in _steps(short, "words", draw, steps, WORDS_LR, seed, log):
        pass
    base.model.visual.requires_grad_(True)


def train_pairs(
    base: Base,
    steps: int,
    batch: int,
    seed: int,
    log: Callable[[str], None],
    check: Callable[[int], None],
    check_every: int,
) -> None:
    """Train on ``batch`` pairs of every kind a step.

    ``check(step)`` runs every ``check_every`` steps and after the last one.
    """
    for step in _steps(base, "pairs", lambda rng: draw_pairs(batch, rng), steps, PAIRS_LR, seed, log):
        if step % check_every == 0 or step == steps:
            check(step)


def _steps(
    base: Base,
    name: str,
    draw: Callable[[np.random.Generator], list[Pair]],
    steps: int,
    lr: float,
    seed: int,
    log: Callable[[str], None],
) -> Iterator[int]:
    """Number of each step, counted from 1, when it is done."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    probe = PromptProbe(base)
    parameters = [*(p for p in base.model.parameters() if p.requires_grad), *probe.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01)
    progress = StepLog(name, steps, log, every=25)
    for step in range(steps):
        cosine_lr(optimizer, lr, step, steps)
        pairs = draw(rng)
        loss, parts = pair_loss(base, probe, pairs, draw_noise(len(pairs), generator))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.update(step, **parts)
        yield step + 1
    probe.detach()
