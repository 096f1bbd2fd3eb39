"""What every part is given: the device, clocks and counted FLOPs; and the rate of the device's matrix products."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Figures = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """device: of torch. full: true sizes, or tiny ones that only show that the code runs. rate: FLOP/s of products."""

    device: torch.device
    full: bool
    rate: float

    @property
    def dtype(self) -> torch.dtype:
        """Of the models."""
        return torch.bfloat16

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """The least time that ``work`` takes, the device's queue included; the caller has warmed it up."""
        return min(self._once(work) for _ in range(repeats if self.full else 1))

    def share(self, flops: float, seconds: float) -> float:
        """Of the matrix rate."""
        return flops / seconds / self.rate

    def profile(self, work: Callable[[], object], most: int = 8) -> dict[str, float]:
        """Shares of the device's time of the ``most`` kernels that take most of it; of the CPU's where it is one."""
        cuda = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
            work()
            self._wait()
        rows = found.key_averages()
        times = {row.key: row.self_device_time_total if cuda else row.self_cpu_time_total for row in rows}
        total = sum(times.values()) or 1.0
        return {
            name[:80]: round(times[name] / total, 3) for name in sorted(times, key=lambda name: -times[name])[:most]
        }

    def peak_gib(self) -> float:
        """The most memory that tensors took since the last call, 0 on a CPU."""
        if self.device.type != "cuda":
            return 0.0
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak

    def _once(self, work: Callable[[], object]) -> float:
        self._wait()
        began = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def open_setting(device: str, size: str) -> Setting:
    """The setting of a process; the matrix rate is measured first, so that every share is of this minute's clock."""
    found = Setting(torch.device(device), size == "full", 1.0)
    return Setting(found.device, found.full, matrix_rate(found))


def matrix_rate(setting: Setting) -> float:
    """FLOP/s of square bfloat16 products, a multiply-add being two."""
    side, many = (8192, 20) if setting.full else (128, 2)
    a, b = (torch.randn(side, side, device=setting.device, dtype=torch.bfloat16) for _ in range(2))

    def work() -> None:
        for _ in range(many):
            torch.mm(a, b)

    work()
    return float(many * 2 * side**3 / setting.seconds(work))


def measure(setting: Setting) -> Iterator[Figures]:
    """The part ``matrix_rate``: what the machine is, and its rate."""
    cuda = setting.device.type == "cuda"
    yield {
        "name": torch.cuda.get_device_name(setting.device) if cuda else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matrix_tflops": setting.rate / 1e12,
    }


def counted(work: Callable[[], object], device: torch.device) -> int:
    """FLOPs of matrix products, convolutions and attention, by running ``work`` once, which warms it up as well.

    A backward pass in it counts. The counter does not know a CPU's fused attention, so there the plain one is run.
    """
    plain = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    counter = FlopCounterMode(display=False)
    with counter, plain:
        work()
    return int(counter.get_total_flops())


@torch.no_grad()
def materialised(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A module on the meta device made real, with random weights that are made on the device: no file, no copy."""
    made = {name: value for name, value in module.named_buffers() if not value.is_meta}
    module.to(dtype).to_empty(device=device)
    for name, buffer in module.named_buffers():
        buffer.copy_(made[name]) if name in made else buffer.zero_()
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.02)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return module.eval()
