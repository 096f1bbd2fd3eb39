"""What machine a run was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict

from varl.launch.cores import usable_cores


class Machine(BaseModel):
    """Processor, memory and the versions that decide speed and rounding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str
    cores: int  # that this process may use
    memory_gib: float
    device: str  # torch device of the trainer, with the GPU's name
    system: str
    python: str
    torch: str


def describe_machine(device: str) -> Machine:
    """The machine that this process runs on; ``device`` is a torch device."""
    return Machine(
        cpu=_cpu_model(),
        cores=usable_cores(),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        device=f"{device} ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else device,
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
    )


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
