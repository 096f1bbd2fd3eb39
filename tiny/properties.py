"""``python -m varl.tiny.properties``: what a tiny base is like before any RL, as the table of its README.

What matters for RL: how well it reads where it is sampled, what a better sampler would give for nothing, how much is
left open at each scale, how much of the picture a mask covers, and how much of a reward's variance the prefix decides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from varl.evaluation.measures.appearance import COLOUR
from varl.evaluation.samplers import Sampler, parse_sampler
from varl.policy.base import Grid, SamplingParams, cells
from varl.policy.nextflow import load
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.sampling import mix
from varl.services.ocr.engines.base import OcrEngine, ReadWord
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.reward import Recognized, comp_sim_pen
from varl.services.rollout.appearance import appearance
from varl.services.rollout.images import encode_png
from varl.tiny.pretrain.check import check_policy, read_words, sample
from varl.tiny.pretrain.task import TaskName, task
from varl.trainer.objectives.mask_propagation import rasterise
from varl.trainer.objectives.vmr import prefix_share
from varl.trajectories.prompts import PromptSpec

PLAIN = "T=1"
OTHERS = ("greedy", "T=0.3", "T=0.5", "T=0.7", "T=0.85", "k=2", "k=4", "k=8", "g=1", "g=2", "g=3")
FINEST = 3  # scales whose mask fraction is given


def rewards_by_prefix(
    policy: NextFlowPolicy, engine: OcrEngine, specs: Sequence[PromptSpec], split: int, shape: tuple[int, int]
) -> Tensor:
    """OCR rewards float64 [prompts, prefixes, continuations] at temperature 1; ``split``: scales of the prefix."""
    prefixes, copies = shape
    found = torch.zeros((len(specs), prefixes, copies), dtype=torch.float64)
    for index, spec in enumerate(specs):
        state, first = policy.sample(
            policy.prefill(spec.prompt, guided=False), split, [mix(index, i) for i in range(prefixes)], SamplingParams()
        )
        seeds = [mix(index, 1000 + i) for i in range(prefixes * copies)]
        _, rest = policy.sample(state.fork(copies), len(policy.grids), seeds, SamplingParams())
        images = policy.decode(torch.cat([first.tokens.repeat_interleave(copies, 0), rest.tokens], 1))
        values = [_reward(spec, reading) for reading in read_words(engine, list(images))]
        found[index] = torch.tensor(values).view(prefixes, copies)
    return found


def entropies(policy: NextFlowPolicy, specs: Sequence[PromptSpec], samples: Sequence[Tensor]) -> list[float]:
    """Mean entropy of each scale along the base's own samples, one a prompt, in nats a token."""
    totals = np.zeros(len(policy.grids))
    for spec, tokens in zip(specs, samples, strict=True):
        with torch.no_grad():
            each = policy.distribution(spec.prompt, tokens, 0).entropy()[0]
        totals += [scale.mean().item() for scale in each.split_with_sizes(cells(policy.grids))]
    return list(totals / len(specs))


def covered(policy: NextFlowPolicy, engine: OcrEngine, samples: Sequence[Tensor], grids: Sequence[Grid]) -> list[float]:
    """Mean share of the cells of each grid that the words read in samples touch."""
    totals = np.zeros(len(grids))
    for words in read_words(engine, list(policy.decode(torch.cat(list(samples))))):
        polygons = [word.polygon for word in words]
        totals += [rasterise(polygons, grid, policy.image_size).float().mean().item() for grid in grids]
    return list(totals / len(samples))


def mean_colours(policy: NextFlowPolicy, samples: Sequence[Tensor]) -> npt.NDArray[np.float64]:
    """CIELAB means [P, 3] of samples, one a prompt."""
    looks = [appearance(encode_png(image), ()) for image in policy.decode(torch.cat(list(samples)))]
    return np.array([[look[axis] for axis in COLOUR] for look in looks])


def report(policy: NextFlowPolicy, engine: OcrEngine, specs: Sequence[PromptSpec], splits: Sequence[int]) -> str:
    """The table in Markdown; the suffix that it counts is that of the first split."""
    samplers = [Sampler(PLAIN, SamplingParams()), *(parse_sampler(text, SamplingParams()) for text in OTHERS)]
    accuracy = {one.name: check_policy(policy, engine, specs, one.params, 0).word_accuracy for one in samplers}
    best = max(accuracy, key=lambda name: accuracy[name])
    few = specs[: max(2, len(specs) // 4)]
    samples, others = (
        [sample(policy, spec.prompt, [mix(seed, index)], SamplingParams()) for index, spec in enumerate(few)]
        for seed in (7, 8)
    )
    *masks, area = covered(policy, engine, samples, [*policy.grids[-FINEST:], policy.image_size])
    shares = {split: prefix_share(rewards_by_prefix(policy, engine, few, split, (4, 4))) for split in splits}
    rows = {
        "word accuracy at temperature 1": f"{accuracy[PLAIN]:.3f}",
        f"best untrained sampler ({best})": f"{accuracy[best]:.3f}, {accuracy[best] - accuracy[PLAIN]:+.3f}",
        "all samplers": ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items()),
        "scales; of them in the suffix": f"{len(policy.grids)}; {len(policy.grids) - splits[0]}",
        "entropy by scale, nats a token": " ".join(f"{value:.2f}" for value in entropies(policy, few, samples)),
        "area of the picture within boxes of words": f"{area:.2f}",
        f"mask fraction in the finest {FINEST} scales": " ".join(f"{value:.2f}" for value in masks),
    }
    apart = np.linalg.norm(mean_colours(policy, samples) - mean_colours(policy, others), axis=1).mean()
    rows["mean colours of two images of one prompt, CIELAB apart"] = f"{apart:.1f}"
    for split, share in shares.items():
        rows[f"share of reward variance decided by the prefix (m = {split})"] = f"{max(share, 0.0):.2f}"
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"| property | {len(specs)} held-out prompts, one image each |\n|---|---|\n{table}\n"


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m varl.tiny.properties", description="Measures a tiny base before RL, as a table in Markdown."
    )
    parser.add_argument("--task", choices=get_args(TaskName), default="signs", help="whose held-out prompts are read")
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny_signs"), help="folder of the model")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts")
    parser.add_argument("--split", type=int, nargs="+", default=[5], help="scales of the prefix; may be several")
    flags = parser.parse_args(arguments)
    specs = task(flags.task).held_out_prompts()[: flags.prompts]
    sys.stdout.write(report(load(flags.model), build_onnx(), specs, flags.split))
    return 0


def _reward(spec: PromptSpec, words: Sequence[ReadWord]) -> float:
    targets = [word.lower() for word in spec.target_words]
    return comp_sim_pen(targets, [Recognized(word.text, word.confidence) for word in words]).value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
