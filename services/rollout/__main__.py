"""``python -m varl.services.rollout``: generate and score groups for a training run."""

from __future__ import annotations

from collections.abc import Sequence

from varl.services.rollout.settings import RolloutServiceSettings
from varl.services.serving.settings import parse_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Work until told to stop; the exit code. ``arguments``: flags, default those of the process."""
    settings = parse_settings(RolloutServiceSettings, arguments)  # type: ignore[type-var]  # it needs dry_run alone, which these settings have
    from varl.services.rollout.app import run  # after the settings: --help need not wait for torch

    return run(settings)


if __name__ == "__main__":
    raise SystemExit(main())
