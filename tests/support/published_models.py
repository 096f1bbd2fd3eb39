"""Model folders out of tiny random checkpoints in the published formats, by the commands that convert real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from tests.support.infinity_models import SQUARE, ByteRows, random_policy
from tests.support.qwen_models import build_qwen, config_of
from varl import cli
from varl.policy.infinity import InfinityConfig
from varl.policy.infinity.text import ROWS, StoredRows
from varl.policy.nextflow.convert import from_qwen


def infinity_folder(folder: Path, prompts: Sequence[str]) -> Path:
    """A flat .pth and {"vae": …}, then varl convert; rows as varl encode writes them, without an encoder."""
    policy, target = random_policy(SQUARE), folder / "model"
    torch.save(dict(policy.module.state_dict()), folder / "infinity.pth")
    torch.save({"vae": dict(policy.tokenizer.state_dict())}, folder / "vae.pth")
    files = ["--transformer", str(folder / "infinity.pth"), "--tokenizer", str(folder / "vae.pth")]
    assert cli.main(["convert", str(target), *files, "--size", "0.06M", "--dtype", "float32"]) == 0
    # Smaller images, as config.json may say afterwards.
    InfinityConfig.read(target).model_copy(update={"scales": SQUARE.scales}).write(target)
    rows = ByteRows(SQUARE.transformer.text_width)
    StoredRows(target / ROWS, SQUARE.transformer).add({prompt: rows.rows(prompt) for prompt in prompts})
    return target


def qwen_folder(folder: Path) -> Path:
    """Qwen2.5-VL's config.json, shards and tokenizer.json, then the NextFlow that starts from them."""
    build_qwen(folder / "qwen")
    target = folder / "model"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        from_qwen(folder / "qwen", config_of(folder / "qwen")).save(target)
    return target
