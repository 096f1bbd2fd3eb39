"""Which part of a picture learnt the reward: the base's prefix with the trained suffix, and the other way round.

    python -m varl.tiny.prefix_swap runs/demo/weights/final.safetensors

Every held-out prompt is drawn four times with the same random numbers: the prefix by the base or by the trained
weights, and then the suffix by either. Prints the base's Word Accuracy at temperature 1 and what each exchange adds to
it, paired by prompt; ± is one standard error by prompt.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from varl.evaluation.estimates import paired_change, pooled_ratio
from varl.policy.base import SamplingParams
from varl.policy.nextflow import load
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.policy.nextflow.state import NextFlowState
from varl.policy.sampling import mix
from varl.policy.schedule import split_scales
from varl.services.ocr.engines.base import OcrEngine
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.metrics import word_accuracy_counts
from varl.tiny.pretrain.check import TOGETHER, read_words
from varl.tiny.pretrain.task import task
from varl.trajectories.prompts import PromptSpec

PLAIN = SamplingParams()
Counts = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]  # words read right and words asked for, by prompt


def main(arguments: Sequence[str]) -> int:
    """Measure and print a row for each file of weights."""
    parser = argparse.ArgumentParser(
        prog="python -m varl.tiny.prefix_swap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("weights", type=Path, nargs="+", help="safetensors files of weights trained from the base")
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny_signs"), help="folder of the base")
    parser.add_argument("--split", type=int, default=5, help="scales of the prefix (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=256, help="held-out prompts (default: %(default)s)")
    flags = parser.parse_args(arguments)
    base, engine = load(flags.model), build_onnx()
    reader = Reader(engine, task("signs").held_out_prompts()[: flags.prompts], flags.split)
    before = reader(base, base)
    sys.stdout.write("| weights | base | trained prefix | trained suffix | both |\n|---|---|---|---|---|\n")
    for path in flags.weights:
        trained = load(flags.model)
        trained.load_weights(str(path))
        after = [reader(trained, base), reader(base, trained), reader(trained, trained)]
        sys.stdout.write(_row(path, before, after))
        sys.stdout.flush()
    return 0


@dataclass(frozen=True)
class Reader:
    """Reads what two policies draw together; split: scales of the prefix."""

    engine: OcrEngine
    specs: Sequence[PromptSpec]
    split: int

    def __call__(self, first: NextFlowPolicy, second: NextFlowPolicy) -> Counts:
        """Words read right and asked for, of each prompt, with the first policy's prefix and the second's suffix."""
        tokens = torch.cat(list(drawn(first, second, self.specs, self.split)))
        words = read_words(self.engine, list(first.decode(tokens)))
        pairs = [
            word_accuracy_counts(spec.target_words, [word.text for word in found])
            for spec, found in zip(self.specs, words, strict=True)
        ]
        hits, asked = np.asarray(pairs, np.float64).T
        return hits, asked


def drawn(
    first: NextFlowPolicy,
    second: NextFlowPolicy,
    specs: Sequence[PromptSpec],
    split: int,
    params: SamplingParams = PLAIN,
) -> Iterator[Tensor]:
    """Tokens int64 [some prompts, sum of h*w]: the first policy's prefix, which the second one continues."""
    for start in range(0, len(specs), TOGETHER):
        prompts = [spec.prompt for spec in specs[start : start + TOGETHER]]
        seeds = [mix(0, index) for index in range(start, start + len(prompts))]
        prefix = first.sample(first.prefill_all(prompts, guided=False), split, seeds, params)[1].tokens
        state = _told(second, prompts, prefix, split)
        suffix = second.sample(state, len(second.grids), seeds, params)[1].tokens
        yield torch.cat([prefix, suffix], 1)


def _told(policy: NextFlowPolicy, prompts: Sequence[str], prefix: Tensor, split: int) -> NextFlowState:
    """The policy's state after a prefix that another one drew: it draws every scale itself, and another is put in."""
    state = policy.prefill_all(prompts, guided=False)
    for scale, codes in enumerate(split_scales(prefix, policy.grids[:split])):
        state, _ = policy.sample(state, scale + 1, [0] * len(prompts), PLAIN)
        state = replace(state, last=codes)
    return state


def _row(path: Path, before: Counts, after: Sequence[Counts]) -> str:
    base = pooled_ratio(*before)
    changes = [paired_change(before, one) for one in after]
    cells = [f"{base.value:.3f} ± {base.error:.3f}", *(f"{one.value:+.3f} ± {one.error:.3f}" for one in changes)]
    return f"| {path} | {' | '.join(cells)} |\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
