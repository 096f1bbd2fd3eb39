"""`python -m varl.tiny.pretrain`.

Renders images, trains tokenizer and policy by likelihood, writes checkpoints/tiny and prompt files.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from varl.policy.base import SamplingParams
from varl.policy.nextflow import NextFlowConfig, build, load
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.services.ocr.engines.onnx import build_onnx
from varl.tiny.pretrain.check import check_policy, check_tokenizer
from varl.tiny.pretrain.train_policy import train_policy
from varl.tiny.pretrain.train_tokenizer import train_semantic, train_tokenizer
from varl.tiny.prompts import write_prompts
from varl.trajectories.prompts import load_prompts


def main() -> None:
    """Parse flags and run the stages asked for."""
    args = _parser().parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    write_prompts(args.prompts)
    with (args.out / "pretrain.log").open("a") as log_file:
        started = time.monotonic()

        def log(line: str) -> None:
            text = f"[{time.monotonic() - started:6.0f} s] {line}"
            print(text, flush=True)  # noqa: T201
            print(text, file=log_file, flush=True)

        log(f"torch {torch.__version__}, {args.threads} threads, seed {args.seed}, stages {' '.join(args.stages)}")
        policy = build(NextFlowConfig()) if "tokenizer" in args.stages else load(args.out)
        if "tokenizer" in args.stages:
            _tokenizer_stage(policy, args, log)
        if "policy" in args.stages:
            _policy_stage(policy, args, log)


def _tokenizer_stage(policy: NextFlowPolicy, args: argparse.Namespace, log: Callable[[str], None]) -> None:
    tokenizer = policy.tokenizer.requires_grad_(True)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads leave this one out
    train_semantic(tokenizer, policy.config.tokenizer.stride, args.semantic_steps, args.batch, args.seed + 1, log)
    train_tokenizer(tokenizer, args.tokenizer_steps, args.batch, args.seed + 2, log)
    policy.tokenizer.requires_grad_(False)
    policy.save(args.out, torch.bfloat16)
    words = [spec.target_words for spec in load_prompts(args.prompts / "tiny_heldout.jsonl")[: args.check_prompts]]
    plain, decoded = check_tokenizer(policy, build_onnx(), words, args.seed)
    log(f"held-out words, rendered: {plain}; after the tokenizer: {decoded}")


def _policy_stage(policy: NextFlowPolicy, args: argparse.Namespace, log: Callable[[str], None]) -> None:
    prompts = load_prompts(args.prompts / "tiny_heldout.jsonl")[: args.check_prompts]
    engine, stop_at = build_onnx(), float(args.stop_at)

    def check(step: int) -> bool:
        policy.save(args.out, torch.bfloat16)
        plain = check_policy(policy, engine, prompts, SamplingParams(), args.seed)
        sampled = check_policy(policy, engine, prompts, SamplingParams(temperature=args.temperature), args.seed)
        log(f"step {step}: held-out words at temperature 1: {plain}; at {args.temperature}: {sampled}")
        return sampled.word_accuracy >= stop_at

    train_policy(policy, args.policy_steps, 2 * args.batch, args.seed + 3, log, check, args.check_every, args.compile)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m varl.tiny.pretrain", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("checkpoints/tiny"), help="model directory to write")
    parser.add_argument(
        "--prompts", type=Path, default=Path("recipes/prompts"), help="folder of the prompt files to write"
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=["tokenizer", "policy"],
        default=["tokenizer", "policy"],
        help="what to train; policy alone loads --out",
    )
    parser.add_argument("--semantic-steps", type=int, default=400, help="steps of the semantic teacher")
    parser.add_argument("--tokenizer-steps", type=int, default=1500, help="steps of the tokenizer")
    parser.add_argument("--policy-steps", type=int, default=800, help="most steps of the policy")
    parser.add_argument(
        "--stop-at",
        type=float,
        default=0.5,
        help="end where this word accuracy on held-out words is reached: RL wants room",
    )
    parser.add_argument(
        "--temperature", type=float, default=1.4, help="of the recipes' sampler, which --stop-at is about"
    )
    parser.add_argument("--check-every", type=int, default=25, help="policy steps between readings of held-out words")
    parser.add_argument(
        "--batch", type=int, default=48, help="images a step for the tokenizer; the policy takes twice as many"
    )
    parser.add_argument("--check-prompts", type=int, default=128, help="held-out prompts of a reading")
    parser.add_argument(
        "--compile", action="store_true", help="compile the policy's pass: half the time, needs a C++ compiler"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and data")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    return parser


if __name__ == "__main__":
    main()
