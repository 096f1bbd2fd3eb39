"""Commands of reward services that run on this machine for as long as somebody needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

PREFERENCE_MODEL = "checkpoints/hpsv3-tiny-synthetic"  # the package carries it (launch/resources.py)
SYNTHETIC = ("--checkpoint", PREFERENCE_MODEL, "--device", "cpu", "--dtype", "float32")
SYNTHETIC_NOTE = (
    f"hpsv3: where nothing names a checkpoint, {PREFERENCE_MODEL} is started, a toy for 64x64 pictures that has learnt "
    "synthetic preferences; it is not HPSv3"
)
_NAME_A_CHECKPOINT = ("--checkpoint", "--hub")
_FREE_PORTS = ("--http-port", "0", "--grpc-port", "0")
_KNOWN = {"ocr": "varl.services.ocr", "hpsv3": "varl.services.hpsv3"}


def reward_command(reward: str, *flags: str) -> list[str]:
    """Command that starts "ocr", "hpsv3" or a reward of one's own on free ports.

    reward: one's own is PATH.py:Class or package.module:Class. flags: are added to the command; where neither they nor
    the environment name a checkpoint, hpsv3 is the synthetic model on the CPU.

    Raises:
        ValueError: it is none of these.
    """
    if ":" in reward:
        service: tuple[str, ...] = ("varl.services.reward", reward)
    elif reward in _KNOWN:
        service = (_KNOWN[reward], *(SYNTHETIC if is_synthetic(reward, flags) else ()))
    else:
        raise ValueError(f"{reward!r} is neither {' nor '.join(_KNOWN)} nor PATH.py:Class nor package.module:Class")
    return [sys.executable, "-m", *service, *flags, *_FREE_PORTS]


def is_synthetic(reward: str, flags: Sequence[str] = ()) -> bool:
    """Whether the command of this reward would start the synthetic preference model; callers say SYNTHETIC_NOTE."""
    given = {flag.partition("=")[0] for flag in flags}
    environment = (f"VARL_HPSV3_{flag.lstrip('-').upper()}" for flag in _NAME_A_CHECKPOINT)
    named = not given.isdisjoint(_NAME_A_CHECKPOINT) or any(os.environ.get(name) for name in environment)
    return reward == "hpsv3" and not named
