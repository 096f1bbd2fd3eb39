"""Pretrains the tiny policy by likelihood alone: scale reweighting, self-correction, dropped prompts for guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from varl.policy.base import Grid, cells
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.nextflow.quantizer import SelfCorrection
from varl.policy.nextflow.rope import rotation, visual_positions
from varl.policy.nextflow.sequence import code_inputs, padded_prompts, sequence_mask
from varl.tiny.precision import autocast
from varl.tiny.pretrain.muon import Muon
from varl.tiny.pretrain.schedule import StepLog, cosine_lr
from varl.tiny.pretrain.stage import Stage
from varl.tiny.pretrain.train_tokenizer import to_images
from varl.tiny.render import Rendered
from varl.trainer.objectives.panw import step_weights, token_weights

# Scale reweighting exponent of arXiv 2601.02204, Eq. 2. The paper's 0.9 is for 18 scales; here letters sit in the last
# two.
ALPHA = 0.5
DROP_PROMPT = 0.1  # share of samples with the empty prompt: the unconditional branch of guidance
TEXT_SHARE = 0.05  # weight of the prompt's own next-byte loss
# Weight of a cell that shows ink, of 1 for one that shows none: most of a picture of signs is wall, which no prompt
# decides and no reward reads.
INK_WEIGHT = 6.0
COMPILED_TEXT = 96  # tokens that prompts are padded to when the pass is compiled, once for each width
MATRIX_LR, OTHER_LR = 0.02, 3e-3  # Muon for the blocks' matrices, AdamW for embeddings, norms and head


ForwardPass = Callable[..., tuple[Tensor, object]]  # NextFlowTransformer.run, as it is or compiled


def forward_batch(
    policy: NextFlowPolicy, prompts: list[str], inputs: list[Tensor], run: ForwardPass | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Teacher-forced pass over a batch of different prompts.

    inputs: code indices int64 [B, h, w] of every scale. Returns visual logits float32 [B, sum of h*w, codes], text
    logits [B, text, vocabulary], the padded prompt tokens int64 [B, text] and which of them are real, bool [B, text].
    """
    module, grids = policy.module, policy.grids
    width = COMPILED_TEXT if run else 1
    tokens, real, positions = padded_prompts(prompts, policy.text, module.text_size, multiple=width)
    codes = code_inputs(policy.tokenizer.quantizer, inputs[:-1], grids)
    scale = torch.repeat_interleave(torch.arange(1, len(grids)), torch.tensor(cells(grids[1:])))
    x = torch.cat([module.embed_text(tokens), module.embed_codes(codes, scale)], 1)
    visual = (
        visual_positions(grids[1:], 1, 0.0, policy.config.transformer.rope_range).expand(len(prompts), -1, -1).clone()
    )
    visual[..., 0] += positions[:, -1:, 0]
    cos, sin = rotation(torch.cat([positions, visual], 1), policy.config.transformer)
    hidden, _ = (run or module.run)(x, (cos[:, None], sin[:, None]), [], sequence_mask(real, grids[1:]))
    width = tokens.shape[1]
    return module.visual_logits(hidden[:, width - 1 :]), module.text_logits(hidden[:, : width - 1]), tokens, real


def pretraining_loss(
    policy: NextFlowPolicy, items: list[Rendered], rng: np.random.Generator, run: ForwardPass | None = None
) -> tuple[Tensor, list[float]]:
    """Cross-entropy on the nearest codes, given perturbed ones (arXiv 2601.02204, Eq. 2).

    Scales are weighted by 1 / (h w)^alpha, cells by their ink. The second value is every scale's plain mean
    cross-entropy, in nats.
    """
    with torch.no_grad(), autocast():
        encoded = policy.tokenizer.encode(to_images(items), SelfCorrection())
    prompts = ["" if rng.random() < DROP_PROMPT else item.prompt for item in items]
    with autocast():
        visual, text, tokens, real = forward_batch(policy, prompts, encoded.inputs, run)
    targets = torch.cat([target.flatten(1) for target in encoded.targets], 1)
    nats = F.cross_entropy(visual.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    per_scale = [part.mean() for part in nats.split_with_sizes(cells(policy.grids), 1)]
    steps = cells(policy.grids)
    weights = token_weights(steps, step_weights(steps, ALPHA, "constant_total")).float() * ink_weights(
        items, policy.grids
    )
    text_nats = F.cross_entropy(text.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view_as(tokens[:, 1:])
    text_loss = (text_nats * real[:, :-1]).sum() / real[:, :-1].sum().clamp_min(1)
    return (nats * weights).mean() + TEXT_SHARE * text_loss, [value.item() for value in per_scale]


def ink_weights(items: Sequence[Rendered], grids: Sequence[Grid]) -> Tensor:
    """Weights float32 [B, sum of h*w] of mean 1 in each scale: INK_WEIGHT to 1 for a cell with ink to one without."""
    ink = torch.from_numpy(np.stack([item.letters > 0 for item in items])).float()[:, None]
    parts = [1 + (INK_WEIGHT - 1) * F.adaptive_max_pool2d(ink, grid).flatten(1) for grid in grids]
    return torch.cat([part / part.mean() for part in parts], 1)


def optimizers(module: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon on the blocks' matrices and AdamW on everything else."""
    matrices = [p for name, p in module.named_parameters() if name.startswith("layers.") and p.ndim == 2]
    others = [p for name, p in module.named_parameters() if not (name.startswith("layers.") and p.ndim == 2)]
    return [
        Muon(matrices, lr=MATRIX_LR),
        torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train_policy(
    policy: NextFlowPolicy, stage: Stage, check: Callable[[int], bool], check_every: int, compiled: bool
) -> None:
    """Train the transformer on the pictures of a stage.

    ``check(step)`` runs every ``check_every`` steps and after the last one; True ends the training. ``compiled`` halves
    the time of a step on a CPU and needs a C++ compiler on the machine.
    """
    opts = optimizers(policy.module)
    progress = StepLog("policy", stage.steps, stage.log, every=25)
    run = torch.compile(policy.module.run, dynamic=False) if compiled else None
    for step, rng in stage.left(module=policy.module, muon=opts[0], adamw=opts[1]):
        for optimizer, peak in zip(opts, (MATRIX_LR, OTHER_LR), strict=True):
            cosine_lr(optimizer, peak, step, stage.steps)
        loss, per_scale = pretraining_loss(policy, stage.draw(stage.batch, rng), rng, run)
        for optimizer in opts:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(policy.module.parameters(), 1.0)
        for optimizer in opts:
            optimizer.step()
        progress.update(
            step, loss=loss.item(), **{f"nats_{h}x{w}": n for (h, w), n in zip(policy.grids, per_scale, strict=True)}
        )
        if ((step + 1) % check_every == 0 or step + 1 == stage.steps) and check(step + 1):
            return
