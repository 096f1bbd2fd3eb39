"""Peak memory and values of the loss's log-probabilities, KL and entropy.

Whole log-softmaxes as before, and varl.policy.distributions.
Each way runs in a process of its own, from the transformer's outputs to the gradients of outputs and head, and its peak
is the process's largest resident set (which only grows, hence the processes) less what was resident before: weights,
outputs and gradient buffers' places in torch are in the latter. tracemalloc would not see torch's memory. 1 stands for
the logits themselves, [sites, codes] or, with --bits, [sites, 2 bits] in float32.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.shared import Row, report
from varl.policy.distributions import Bitwise, Categorical, unpack_bits

DIM = 256
Inputs = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor
]  # outputs [1, n, dim] and head [codes, dim], those of the reference, tokens [1, n]
Parts = tuple[Tensor, Tensor, Tensor]  # log-probabilities, KL, entropy


def whole(hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, tokens: Tensor) -> Parts:
    """The trainer's formulas before distributions, on whole logits."""
    logits = F.linear(hidden, head)
    with torch.no_grad():
        reference = F.linear(other, other_head)
    log_probs = logits.log_softmax(dim=-1).gather(-1, tokens[..., None]).squeeze(-1)
    log_p = logits.log_softmax(dim=-1)
    kl = (log_p.exp() * (log_p - reference.log_softmax(dim=-1))).sum(dim=-1)
    with torch.no_grad():
        log_p = logits.log_softmax(dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return log_probs, kl, entropy


def from_logits(hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, tokens: Tensor) -> Parts:
    """A distribution over logits that the model has made whole."""
    with torch.no_grad():
        reference = Categorical(F.linear(other, other_head))
    found = Categorical(F.linear(hidden, head)).evaluate(tokens, reference)
    return found.log_probs, found.kl, found.entropy


def from_hidden(hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, tokens: Tensor) -> Parts:
    """A distribution that applies the head itself, as NextFlow's does."""
    found = Categorical(hidden, head).evaluate(tokens, Categorical(other, other_head))
    return found.log_probs, found.kl, found.entropy


def whole_bits(hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, tokens: Tensor) -> Parts:
    """The formulas of independent bits on whole logits, one after another."""
    odds = F.linear(hidden, head).unflatten(-1, (-1, 2)).diff(dim=-1)[..., 0]  # type: ignore[no-untyped-call]
    with torch.no_grad():
        reference = F.linear(other, other_head).unflatten(-1, (-1, 2)).diff(dim=-1)[..., 0]  # type: ignore[no-untyped-call]
    log_probs = F.logsigmoid(torch.where(unpack_bits(tokens, odds.shape[-1]), odds, -odds)).sum(-1)
    kl = sum((side * odds).sigmoid() * (F.logsigmoid(side * odds) - F.logsigmoid(side * reference)) for side in (1, -1))
    with torch.no_grad():
        entropy = -sum((side * odds).sigmoid() * F.logsigmoid(side * odds) for side in (1, -1))
    return log_probs, kl.sum(-1), entropy.sum(-1)


def bits_from_hidden(hidden: Tensor, head: Tensor, other: Tensor, other_head: Tensor, tokens: Tensor) -> Parts:
    """A distribution of bits that applies the head itself, as Infinity's does."""
    zero = head.new_zeros(len(head))
    found = Bitwise(hidden, head=(head, zero)).evaluate(tokens, Bitwise(other, head=(other_head, zero)))
    return found.log_probs, found.kl, found.entropy


WAYS: dict[str, Callable[..., Parts]] = {"whole": whole, "from logits": from_logits, "from hidden states": from_hidden}
BIT_WAYS: dict[str, Callable[..., Parts]] = {"whole": whole_bits, "from hidden states": bits_from_hidden}


def inputs(sites: int, codes: int, bits: bool) -> Inputs:
    """codes: rows of the head; with ``bits`` two for each bit of a token."""
    generator = torch.Generator().manual_seed(0)
    hidden, other = (torch.randn(1, sites, DIM, generator=generator) for _ in range(2))
    head = 0.1 * torch.randn(codes, DIM, generator=generator)
    tokens = torch.randint(2 ** (codes // 2) if bits else codes, (1, sites), generator=generator)
    return hidden.requires_grad_(), head.requires_grad_(), hidden.detach() + 0.1 * other, head.detach(), tokens


def resident() -> int:
    """Largest resident set so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def step(way: Callable[..., Parts], given: Inputs) -> tuple[Parts, Tensor, Tensor]:
    """Forwards and backwards; values and the gradients of hidden states and head."""
    parts = way(*given)
    weights = torch.linspace(-1, 1, parts[0].numel())
    (parts[0] * weights + 0.1 * parts[1]).sum().backward()  # type: ignore[no-untyped-call]
    assert given[0].grad is not None and given[1].grad is not None
    return parts, given[0].grad, given[1].grad


def child(name: str, sites: int, codes: int, bits: bool, file: Path) -> None:
    """Measure one way; prints JSON and leaves its values in ``file``."""
    way = (BIT_WAYS if bits else WAYS)[name]
    step(way, inputs(8, 16, bits))  # what torch loads at its first use
    given = inputs(sites, codes, bits)
    before, start = resident(), time.perf_counter()
    parts, *gradients = step(way, given)
    seconds, peak = time.perf_counter() - start, resident() - before
    names = ("log_probs", "kl", "entropy", "gradient of hidden states", "gradient of head")
    save_file({key: value.detach().contiguous() for key, value in zip(names, (*parts, *gradients), strict=True)}, file)
    print(json.dumps({"peak": peak, "seconds": seconds}))


def measure(sites: int, codes: int, bits: bool) -> list[Row]:
    """A row for each way; differences are the largest of any value, those of gradients over the largest gradient."""
    rows, unit = list[Row](), 4 * sites * codes
    with TemporaryDirectory() as folder:
        for name in BIT_WAYS if bits else WAYS:
            file = Path(folder) / f"{name}.safetensors"
            command = [sys.executable, "-m", "benchmarks.loss_memory", "--child", name, "--file", str(file)]
            sizes = ["--sites", str(sites), *(["--bits", str(codes // 2)] if bits else ["--codes", str(codes)])]
            done = subprocess.run([*command, *sizes], check=True, stdout=subprocess.PIPE)
            found, expected = json.loads(done.stdout), load_file(Path(folder) / "whole.safetensors")
            gaps = {key: float((value - expected[key]).abs().max()) for key, value in load_file(file).items()}
            values = max(gap for key, gap in gaps.items() if "gradient" not in key)
            gradients = max(gap / float(expected[key].abs().max()) for key, gap in gaps.items() if "gradient" in key)
            rows.append(
                {
                    "way": name, "peak MiB": found["peak"] / 2**20, "over the logits": found["peak"] / unit,
                    "s": found["seconds"],
                    "values differ by": f"{values:.1e}", "gradients differ by": f"{gradients:.1e}",
                }
            )  # fmt: skip
    return rows


def main() -> None:
    """Measure all ways, or be one of the processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_memory", description=__doc__)
    parser.add_argument("--sites", type=int, default=4096)
    parser.add_argument("--codes", type=int, default=32768)
    parser.add_argument("--bits", type=int, help="bits of a token, in place of codes")
    parser.add_argument("--child", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    codes = 2 * given.bits if given.bits else given.codes
    if given.child:
        child(given.child, given.sites, codes, bool(given.bits), given.file)
        return
    sizes = {"sites": given.sites, "dim": DIM, **({"bits": given.bits} if given.bits else {"codes": given.codes})}
    report("loss_memory_bits" if given.bits else "loss_memory", sizes, measure(given.sites, codes, bool(given.bits)))


if __name__ == "__main__":
    main()
