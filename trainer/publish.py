"""Published weights: all that a worker needs to draw."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from trainer.averaging import WeightAverage
from trainer.jobs import PublishedWeights
from trainer.update import Updater


def publish_weights(directory: Path, version: int, updater: Updater, keep: int) -> PublishedWeights:
    """Write directory/v<version>.safetensors for the workers and delete all but the newest ``keep`` versions."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"v{version:06d}.safetensors"
    updater.policy.save_weights(str(path))
    versions = [found for found in sorted(directory.glob("v*.safetensors")) if re.fullmatch(r"v\d{6,}\.safetensors", found.name)]
    for old in [found for found in versions if found != path][: max(len(versions) - keep, 0)]:
        old.unlink()
    return PublishedWeights(version, path)


def publish_average(directory: Path, version: int, updater: Updater, average: WeightAverage) -> PublishedWeights:
    """Write directory/ema.safetensors, the averages of this version; workers notice that the file is a new one."""
    path = directory / "ema.safetensors"
    with average.applied():
        updater.policy.save_weights(str(path))
    return PublishedWeights(version, path)


def keep_final(weights: PublishedWeights) -> Path:
    """Copy published weights to final.safetensors beside them, whole or not at all."""
    final = weights.path.with_name("final.safetensors")
    part = final.with_suffix(".part")
    shutil.copyfile(weights.path, part)
    return part.replace(final)
