"""How many sequences a worker samples together, by the memory that is there, before it takes its first job."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from varl.policy.base import SamplingParams
from varl.policy.ledger import Ledger
from varl.policy.load import BLANK, architecture, load_blank
from varl.services.rollout.settings import RolloutServiceSettings

USABLE = 0.9  # of the memory that is free; the rest is the allocator's, and what images are decoded with
PROMPT = "x" * 400  # a long prompt
_log = logging.getLogger("varl.rollout")


@dataclass(frozen=True)
class Capacity:
    """Sequences that fit together, without and with guidance, which takes a second cache, and bytes of each.

    room: bytes into which they fit.
    """

    room: int
    plain: int
    guided: int
    plain_bytes: int
    guided_bytes: int


def capacity(model_dir: Path, dtype: str, room: int) -> Capacity:
    """What fits into ``room`` bytes beside the weights, by sampling on the meta device, which takes no memory.

    Raises:
        ValueError: not even one sequence fits, or the model's architecture is none of varl's own.
        OSError: config.json is missing or cannot be read.
    """
    (plain, plain_bytes), (guided, guided_bytes) = (_fitting(model_dir, dtype, room, cfg) for cfg in (0.0, 1.0))
    if plain < 1:
        raise ValueError(
            f"device: not even one sequence fits: it takes {plain_bytes / 2**30:.2f} GiB beside the weights, and "
            f"{room / 2**30:.2f} GiB can be used"
        )
    return Capacity(room, plain, guided, plain_bytes, guided_bytes)


def _fitting(model_dir: Path, dtype: str, room: int, cfg: float) -> tuple[int, int]:
    one, two = (_peak(model_dir, dtype, count, cfg) for count in (1, 2))
    each = max(1, two - one)
    return max(0, (room - one) // each + 1), each


def _peak(model_dir: Path, dtype: str, count: int, cfg: float) -> int:
    policy, params = load_blank(model_dir, dtype), SamplingParams(cfg=cfg)
    with Ledger():  # of its own: in a small model a long prompt takes more than a sequence, and it is read once
        state = policy.prefill(PROMPT, guided=cfg > 0)
    with Ledger() as ledger:
        policy.sample(state, len(policy.grids), [0] * count, params)
    return ledger.peak


def usable_memory(device: str, share: float) -> int | None:
    """Bytes that a worker may still take of a GPU of which it has ``share``; None on a CPU."""
    if torch.device(device).type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(USABLE * min(free, share * total - torch.cuda.memory_reserved(device)))


def divide_device(device: str, share: float) -> None:
    """Let this process take no more than its share of a GPU's memory, so that workers beside it keep theirs."""
    if torch.device(device).type == "cuda" and share < 1:
        torch.cuda.set_per_process_memory_fraction(share, device)


def device_capacity(model_dir: Path, dtype: str, device: str, share: float = 1.0, plugin: str = "") -> Capacity | None:
    """What fits on a device of which one has ``share``; None on a CPU, and of a model that is none of varl's own.

    Raises:
        ValueError: not even one sequence fits.
        OSError: config.json is missing or cannot be read.
    """
    room = usable_memory(device, share)
    if room is None or plugin or architecture(model_dir) not in BLANK:
        return None
    return capacity(model_dir, dtype, room)


def batches(settings: RolloutServiceSettings) -> tuple[int, int]:
    """Sequences that are sampled together, without and with guidance: ``sample_batch``, or as many as fit.

    The log says which. On a CPU, and of a plugin's model, nobody knows; there it is ``sample_batch``.

    Raises:
        ValueError: not even one sequence fits.
        OSError: config.json is missing or cannot be read.
    """
    wanted, device = settings.sample_batch, settings.device
    found = device_capacity(settings.model_dir, settings.dtype, device, settings.device_share, settings.plugin)
    if found is None:
        return wanted, wanted
    _log.info(
        "%s: into %.2f GiB fit %d sequences of %.3f GiB, with guidance %d of %.3f GiB; sample_batch is %d",
        device, found.room / 2**30, found.plain, found.plain_bytes / 2**30,
        found.guided, found.guided_bytes / 2**30, wanted,
    )  # fmt: skip
    if found.guided < 1:
        _log.warning("%s: a job with guidance does not fit: it samples one sequence at a time, and may fail", device)
    return min(wanted, found.plain), max(1, min(wanted, found.guided))
