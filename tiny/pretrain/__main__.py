"""`python -m varl.tiny.pretrain`.

Renders images, trains tokenizer and policy by likelihood, writes a model directory and prompt files. A run that was cut
off goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from varl.policy.base import SamplingParams
from varl.policy.nextflow import build, load, load_tokenizer
from varl.policy.nextflow.policy import NextFlowPolicy
from varl.services.ocr.engines.onnx import build_onnx
from varl.tiny.pretrain.check import check_policy, check_tokenizer
from varl.tiny.pretrain.stage import Stage
from varl.tiny.pretrain.task import Task, TaskName, task
from varl.tiny.pretrain.train_policy import train_policy
from varl.tiny.pretrain.train_tokenizer import train_semantic, train_tokenizer
from varl.trajectories.prompt_files import save_prompts


def main() -> None:
    """Parse flags and run the stages asked for."""
    args = _parser().parse_args()
    out, state, chosen = args.out or _out(args.task), args.state or Path("runs/pretrain") / args.task, task(args.task)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    for stem, specs in chosen.prompts().items():
        save_prompts(args.prompts / f"{stem}.jsonl", specs)
    with (out / "pretrain.log").open("a") as log_file:
        started = time.monotonic()

        def log(line: str) -> None:
            text = f"[{time.monotonic() - started:6.0f} s] {line}"
            print(text, flush=True)  # noqa: T201
            print(text, file=log_file, flush=True)

        log(f"torch {torch.__version__}, {args.threads} threads, seed {args.seed}, stages {' '.join(args.stages)}")
        policy = build(chosen.config) if "tokenizer" in args.stages else _read(out)
        if "tokenizer" in args.stages:
            _tokenizer_stage(policy, chosen, args, out, state, log)
        if "policy" in args.stages:
            _policy_stage(policy, chosen, args, out, state, log)


def _read(out: Path) -> NextFlowPolicy:
    """The model in ``out``; its transformer is fresh where only the tokenizer has been trained."""
    return load(out) if (out / "policy.safetensors").exists() else load_tokenizer(out)


def _tokenizer_stage(
    policy: NextFlowPolicy, chosen: Task, args: argparse.Namespace, out: Path, state: Path, log: Callable[[str], None]
) -> None:
    tokenizer = policy.tokenizer.requires_grad_(True)
    tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads leave this one out
    draw, batch, seed, stride = chosen.tokenizer_batch, args.batch, args.seed, policy.config.tokenizer.stride
    semantic = Stage(draw, args.semantic_steps, batch, seed + 1, state / "semantic.pt", log)
    train_semantic(tokenizer, stride, semantic)
    rest = Stage(draw, args.tokenizer_steps, batch, seed + 2, state / "tokenizer.pt", log)
    train_tokenizer(tokenizer, stride, rest)
    policy.tokenizer.requires_grad_(False)
    policy.save_tokenizer(out, torch.bfloat16)
    items = chosen.held_out(args.check_prompts, np.random.default_rng(seed))
    plain, decoded = check_tokenizer(policy, build_onnx(), items)
    log(f"held-out words, rendered: {plain}; after the tokenizer: {decoded}")


def _policy_stage(
    policy: NextFlowPolicy, chosen: Task, args: argparse.Namespace, out: Path, state: Path, log: Callable[[str], None]
) -> None:
    prompts = chosen.held_out_prompts()[: args.check_prompts]
    engine, stop_at = build_onnx(), float(args.stop_at)

    def check(step: int) -> bool:
        policy.save(out, torch.bfloat16)
        plain = check_policy(policy, engine, prompts, SamplingParams(), args.seed)
        sampled = check_policy(policy, engine, prompts, SamplingParams(temperature=args.temperature), args.seed)
        log(f"step {step}: held-out words at temperature 1: {plain}; at {args.temperature}: {sampled}")
        return sampled.word_accuracy >= stop_at

    stage = Stage(chosen.policy_batch, args.policy_steps, 2 * args.batch, args.seed + 3, state / "policy.pt", log)
    train_policy(policy, stage, check, args.check_every, args.compile)


def _out(name: TaskName) -> Path:
    return Path("checkpoints") / ("tiny_signs" if name == "signs" else "tiny")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m varl.tiny.pretrain", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--task", choices=get_args(TaskName), default="signs", help="which base")
    parser.add_argument("--out", type=Path, help="model directory to write; None: that of the task in checkpoints/")
    parser.add_argument("--state", type=Path, help="folder by which a run goes on; None: runs/pretrain/TASK")
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
    parser.add_argument("--policy-steps", type=int, default=1000, help="most steps of the policy")
    parser.add_argument(
        "--stop-at",
        type=float,
        default=0.5,
        help="end where this word accuracy on held-out words is reached: RL wants room",
    )
    parser.add_argument("--temperature", type=float, default=0.5, help="of the sampler that --stop-at is about")
    parser.add_argument("--check-every", type=int, default=50, help="policy steps between readings of held-out words")
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
