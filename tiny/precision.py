"""The arithmetic of training on a CPU."""

from __future__ import annotations

import torch


def autocast() -> torch.autocast:
    """bfloat16 where the CPU multiplies it; elsewhere PyTorch emulates it, 80 times slower than float32."""
    capable = torch.cpu.get_capabilities()
    return torch.autocast("cpu", torch.bfloat16, enabled=bool(capable.get("avx512_bf16") or capable.get("amx_bf16")))
