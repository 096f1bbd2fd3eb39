"""``python -m varl.services.reward PATH.py:Class``: a reward of one's own over gRPC and HTTP."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout

from varl.launch.program import program
from varl.services.reward.load import load_reward
from varl.services.reward.place import RewardNotFoundError
from varl.services.reward.settings import RewardSettings
from varl.services.serving.plugin import RewardScorer
from varl.services.serving.runner import run
from varl.services.serving.settings import parse_settings


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit status: 0, 1 where it could not start, 2 for bad arguments."""
    settings = parse_settings(RewardSettings, list(arguments))
    try:
        with redirect_stdout(sys.stderr):  # stdout is for the ready line alone
            kind = load_reward(settings.reward)
    except RewardNotFoundError as error:
        return _fail(str(error), 2)
    except ModuleNotFoundError as error:
        if settings.reward.startswith("varl."):
            raise  # of varl's own rewards: ``varl`` names the extra
        return _traced(settings.reward, error)
    except Exception as error:
        return _traced(settings.reward, error)
    return run(settings, RewardScorer(kind, settings.device, settings.scoring_limits(kind.batch_size)))


def _traced(reward: str, error: Exception) -> int:
    """Called where ``error`` is handled: of the user's own module its traceback is what helps."""
    traceback.print_exc()
    return _fail(f"{reward} cannot be imported: {type(error).__name__}: {error}", 1)


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"{program('varl.services.reward')}: {message}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
