"""The sampler on the demo's model: a group of 16 with two continuations, as many whole images, and a former tree.

Also one image each of 16 prompts, in 16 calls and in one.

``--former`` names a checkout of another commit (git worktree add /tmp/former 1334b15): its code runs in a process of
its own, turn by turn with this one's, so that both meet the same machine. Processor time on one thread, medians of the
turns; the FLOPs that forking saves are counted by PyTorch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a red sign that says 'BREAD'"
GROUP, SPLIT, CONTINUATIONS = 16, 5, 2  # recipes/tiny_demo.toml
Figures = dict[str, Any]


def main() -> None:
    """Measure, or be the process of one of the trees."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampler", description=__doc__)
    parser.add_argument("--former", type=Path, help="checkout of the commit to compare with")
    parser.add_argument("--turns", type=int, default=5, help="of each (default: %(default)s)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        _serve()
        return
    trees = {"now": ROOT} | ({"former": given.former.resolve()} if given.former else {})
    processes = {name: _start(tree) for name, tree in trees.items()}
    turns = [{name: _ask(process) for name, process in processes.items()} for _ in range(given.turns + 1)][1:]
    _report(turns, given.turns)
    for process in processes.values():
        process.communicate()


def _serve() -> None:
    """A turn for every line that comes."""
    from varl.policy.load import load

    torch.set_num_threads(1)
    policy = load("checkpoints/tiny_signs")
    saved: float | None = None
    for _ in sys.stdin:
        found = _turn(policy, saved)
        saved = found["flops saved"]
        print(json.dumps(found), flush=True)


def _turn(policy: Any, saved: float | None) -> Figures:  # noqa: ANN401 - a policy of either tree
    from varl.policy.base import SamplingParams
    from varl.policy.sampling import mix

    last, params = len(policy.grids), SamplingParams()

    def forked() -> Any:  # noqa: ANN401
        state, prefix = policy.sample(
            policy.prefill(PROMPT, False), SPLIT, [mix(7, i, 0) for i in range(GROUP)], params
        )
        seeds = [mix(7, i, k + 1) for i in range(GROUP) for k in range(CONTINUATIONS)]
        rest = policy.sample(state, last, seeds, params)[1]
        return torch.cat([prefix.tokens.repeat_interleave(CONTINUATIONS, 0), rest.tokens], 1)

    def whole() -> Any:  # noqa: ANN401
        seeds = [mix(7, i, 0) for i in range(GROUP * CONTINUATIONS)]
        return policy.sample(policy.prefill(PROMPT, False), last, seeds, params)[1].tokens

    forked_s, tokens = _clock(forked)
    whole_s, _ = _clock(whole)
    prompts = [f"{PROMPT} {index}" for index in range(GROUP)]

    def apart() -> Any:  # noqa: ANN401
        return [policy.sample(policy.prefill(prompt, False), last, [mix(7, 0)], params) for prompt in prompts]

    def together() -> Any:  # noqa: ANN401
        return policy.sample(policy.prefill_all(prompts, False), last, [mix(7, 0)] * GROUP, params)

    apart_s = _clock(apart)[0]
    together_s = _clock(together)[0] if hasattr(policy, "prefill_all") else math.nan  # a former tree may have none
    decode_s, _ = _clock(lambda: [policy.decode(tokens[first : first + 8]) for first in range(0, len(tokens), 8)])
    return {
        "forked": forked_s, "whole": whole_s, "decode": decode_s, "apart": apart_s, "together": together_s,
        "flops saved": saved or 1 - _flops(forked) / _flops(whole),
        "tokens": hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:12],
    }  # fmt: skip


def _clock(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return time.process_time() - began, found


def _flops(work: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the counter does not know a CPU's fused kernel
        work()
    return int(counter.get_total_flops())


def _start(tree: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--worker"]
    return subprocess.Popen(
        command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(process: subprocess.Popen[str]) -> Figures:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("turn\n")
    process.stdin.flush()
    found: Figures = json.loads(process.stdout.readline())
    return found


def _report(turns: list[dict[str, Figures]], count: int) -> None:
    from benchmarks.shared import report

    rows = []
    for name in turns[0]:
        found = [turn[name] for turn in turns]
        saved = median(1 - one["forked"] / one["whole"] for one in found)
        rows.append(
            {
                "tree": name,
                "group s": median(one["forked"] for one in found),
                "whole images s": median(one["whole"] for one in found),
                "decode s": median(one["decode"] for one in found),
                "16 prompts, 16 calls s": median(one["apart"] for one in found),
                "one call, of that": median(one["together"] / one["apart"] for one in found),
                "forking saves": saved,
                "of the FLOPs": found[0]["flops saved"],
                "group, former / this": median(
                    turn.get("former", turn[name])["forked"] / turn[name]["forked"] for turn in turns
                ),
                "tokens": found[0]["tokens"],
            }
        )
    report("sampler", {"group": GROUP, "continuations": CONTINUATIONS, "split": SPLIT, "turns": count}, rows)


if __name__ == "__main__":
    main()
