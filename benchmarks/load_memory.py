"""Memory of a process that loads a large Infinity, beside the size of its file.

A random model in the format of policy.safetensors is written, then loaded by ``varl.policy.load`` in a process of its
own, in the dtype of the file (its weights are mapped) and in the other one (they are converted one at a time). Own
memory is RssAnon of /proc/self/status, mapped memory is RssFile, which processes on a machine share; both less what
they were before. The weights are read once through after loading, so that all of the mapped pages are there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.shared import Row, report
from varl.policy.infinity import InfinityConfig, TokenizerConfig
from varl.policy.infinity.config import PRESETS
from varl.policy.infinity.policy import TOKENIZER, WEIGHTS
from varl.policy.load import load, load_blank, torch_dtype

DTYPES = {"float32": "F32", "bfloat16": "BF16"}  # names in a safetensors header
CHUNK = 2**24  # numbers written at a time


def config_of(parameters: float) -> InfinityConfig:
    """Infinity 2B with so many layers that it has about this number of parameters, and a small tokenizer."""
    size = PRESETS["2B"]
    layers = max(1, round(parameters / 2.2e9 * size.depth / 2))
    transformer = size.model_copy(update={"depth": 2 * layers, "chunks": 2})
    tokenizer = TokenizerConfig(bits=32, channels=32, multipliers=(1, 1, 1, 1, 1), blocks=1)
    return InfinityConfig(tokenizer=tokenizer, transformer=transformer, scales=7)


def write_random(module: Any, path: Path, dtype: str) -> None:  # noqa: ANN401
    """A safetensors file of a module on the meta device, its numbers random, without holding more than a chunk."""
    kind, header, end = torch_dtype(dtype), dict[str, Any](), 0
    state = module.state_dict()
    for name, value in state.items():
        size = value.numel() * kind.itemsize
        header[name] = {"dtype": DTYPES[dtype], "shape": list(value.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in state.values():
            for first in range(0, value.numel(), CHUNK):
                numbers = torch.randn(min(CHUNK, value.numel() - first)).mul_(0.02).to(kind)
                file.write(numbers.view(torch.uint8).numpy().tobytes())


def resident() -> dict[str, int]:
    """RssAnon and RssFile of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(":") for line in lines if line.startswith(("RssAnon", "RssFile")))
    return {name: 1024 * int(value.split()[0]) for name, value in found.items()}


class Peak(threading.Thread):
    """The largest RssAnon while a ``with`` block runs, looked at every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self._done = 0, threading.Event()

    def run(self) -> None:
        """Look until told to stop."""
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, resident()["RssAnon"])

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()


def child(folder: Path, dtype: str) -> None:
    """Load and read through; prints JSON."""
    torch.set_num_threads(1)
    load_blank(folder, dtype)  # what is imported at first use
    before, start = resident(), time.perf_counter()
    with Peak() as peak:
        policy = load(folder, dtype=dtype)
    seconds, loaded = time.perf_counter() - start, resident()
    with torch.no_grad():
        for value in policy.module.parameters():
            value.view(-1)[::512].sum()  # every page has one of these at least
    after = resident()
    gained = {f"loaded {name}": loaded[name] - before[name] for name in loaded}
    gained |= {f"read {name}": after[name] - before[name] for name in after}
    print(json.dumps(gained | {"peak": max(0, peak.bytes - before["RssAnon"]), "seconds": seconds}))


def measure(parameters: float, written: str) -> list[Row]:
    """A row for each dtype that is asked for."""
    with TemporaryDirectory() as name:
        folder, config = Path(name), config_of(parameters)
        config.write(folder)
        blank = load_blank(folder, written)
        write_random(blank.module, folder / WEIGHTS, written)
        write_random(blank.tokenizer, folder / TOKENIZER, "float32")
        return [_row(folder, written, asked) for asked in DTYPES]


def _row(folder: Path, written: str, asked: str) -> Row:
    command = [sys.executable, "-m", "benchmarks.load_memory", "--child", asked, "--folder", str(folder)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    size = (folder / WEIGHTS).stat().st_size
    return {
        "file": written, "asked": asked, "file MiB": size / 2**20, "s": found["seconds"],
        "own, peak": found["peak"] / size, "own, loaded": found["loaded RssAnon"] / size,
        "own, read": found["read RssAnon"] / size, "mapped, read": found["read RssFile"] / size,
    }  # fmt: skip


def main() -> None:
    """Measure, or be one of the processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_memory", description=__doc__)
    parser.add_argument("--parameters", type=float, default=2.2e9, help="of the random transformer, about")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16", help="of the file")
    parser.add_argument("--child", choices=list(DTYPES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.folder, given.child)
        return
    report(
        "load_memory", {"parameters": given.parameters, "dtype": given.dtype}, measure(given.parameters, given.dtype)
    )


if __name__ == "__main__":
    main()
