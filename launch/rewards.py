"""Commands of reward services that run on this machine for as long as somebody needs them."""

from __future__ import annotations

import sys

PREFERENCE_MODEL = "checkpoints/hpsv3-tiny-synthetic"  # the package carries it (launch/resources.py)
_FREE_PORTS = ("--http-port", "0", "--grpc-port", "0")
_KNOWN = {
    "ocr": ("varl.services.ocr",),
    "hpsv3": ("varl.services.hpsv3", "--checkpoint", PREFERENCE_MODEL, "--device", "cpu", "--dtype", "float32"),
}


def reward_command(reward: str, *flags: str) -> list[str]:
    """Command that starts "ocr", "hpsv3" (the synthetic model, on the CPU) or "PATH.py:Class" on free ports.

    ``flags`` are added to it.

    Raises:
        ValueError: it is none of these.
    """
    path, separator, _ = reward.rpartition(":")
    service = ("varl.services.reward", reward) if separator and path.endswith(".py") else _KNOWN.get(reward)
    if service is None:
        raise ValueError(f"{reward!r} is neither {' nor '.join(_KNOWN)} nor PATH.py:Class")
    return [sys.executable, "-m", *service, *flags, *_FREE_PORTS]
