"""`python -m varl.tiny.preference`.

Renders pairs, trains the tiny preference model on them, writes checkpoints/hpsv3-tiny-synthetic.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from varl.services.hpsv3.files import WEIGHTS
from varl.services.hpsv3.golden import FILE, PICTURES, PROMPT, Golden
from varl.services.hpsv3.model import save_checkpoint
from varl.services.hpsv3.preprocess import resize, token_count
from varl.tiny.preference.base import Base, create, load
from varl.tiny.preference.evaluate import accuracies, as_text
from varl.tiny.preference.letters import train_letters
from varl.tiny.preference.train import train_pairs, train_words

STAGES = ["letters", "words", "pairs"]
FINAL_SEED = 1  # of the held-out pairs of the last reading; those along the way are others


def main() -> None:
    """Parse flags and run the stages asked for."""
    args = _parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    base = create(args.out, args.seed) if "letters" in args.stages else load(args.out)
    if args.compile:
        base.model.visual.compile()  # where most of the time goes
    with (args.out / "train.log").open("a") as log_file:
        started = time.monotonic()

        def log(line: str) -> None:
            text = f"[{time.monotonic() - started:6.0f} s] {line}"
            print(text, flush=True)  # noqa: T201
            print(text, file=log_file, flush=True)

        size = sum(parameter.numel() for parameter in base.model.parameters()) / 1e6
        log(
            f"torch {torch.__version__}, {args.threads} threads, seed {args.seed}, "
            f"stages {' '.join(args.stages)}, {size:.2f} M parameters"
        )
        if "letters" in args.stages:
            train_letters(base, args.letter_steps, args.batch, args.seed + 1, log)
            _save(base, args.out)
        if "words" in args.stages:
            train_words(base, args.word_steps, args.batch // 2, args.seed + 2, log)
            _save(base, args.out)
        if "pairs" in args.stages:
            _pair_stage(base, args, log)


def _pair_stage(base: Base, args: argparse.Namespace, log: Callable[[str], None]) -> None:
    def check(step: int) -> None:
        _save(base, args.out)
        log(f"step {step}: held-out pairs in the right order: {as_text(accuracies(base, args.check_pairs, args.seed))}")

    train_pairs(base, args.pair_steps, args.batch // 2, args.seed + 3, log, check, args.check_every)
    found = accuracies(base, args.final_pairs, FINAL_SEED)
    log(f"at the end, {args.final_pairs} held-out pairs of each kind in the right order: {as_text(found)}")


def _save(base: Base, folder: Path) -> None:
    """Weights, and what they say about the picture that the service scores when it starts."""
    save_checkpoint(base.model, folder / WEIGHTS)
    base.model.eval()
    picture = resize(PICTURES["gradient"]())
    with torch.no_grad():
        mu, log_sigma = base.model([picture], [base.prompts.token_ids(PROMPT, token_count(picture))])[0].tolist()
    base.model.train()
    golden = Golden(prompt=PROMPT, image="gradient", mu=mu, log_sigma=log_sigma)
    (folder / FILE).write_text(golden.model_dump_json(indent=2) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m varl.tiny.preference",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, default=Path("checkpoints/hpsv3-tiny-synthetic"), help="model directory to write"
    )
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="what to train; without letters, --out is loaded"
    )
    parser.add_argument("--letter-steps", type=int, default=1200, help="steps of the vision half on letters")
    parser.add_argument("--word-steps", type=int, default=600, help="steps of the decoder on right and wrong content")
    parser.add_argument("--pair-steps", type=int, default=400, help="steps of the whole model on pairs")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step, two of them a pair")
    parser.add_argument("--check-every", type=int, default=100, help="steps between readings of held-out pairs")
    parser.add_argument(
        "--check-pairs", type=int, default=16, help="held-out pairs of each kind in a reading along the way"
    )
    parser.add_argument("--final-pairs", type=int, default=100, help="held-out pairs of each kind in the last reading")
    parser.add_argument(
        "--compile", action="store_true", help="compile the vision half: several times as fast, needs a C++ compiler"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    return parser


if __name__ == "__main__":
    main()
