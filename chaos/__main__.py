"""``python -m chaos``: exits with 0 if every invariant holds, 1 if one does not, 2 for a bad flag, 130 for Ctrl-C."""

from __future__ import annotations

import asyncio
import sys

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from chaos.run import trial
from chaos.settings import ChaosSettings
from varl.launch.supervisor import sigterm_as_exit


def main(arguments: list[str]) -> int:
    """Run a trial; the exit status."""
    try:
        settings = CliApp.run(ChaosSettings, cli_args=arguments)
        with sigterm_as_exit():
            result = asyncio.run(trial(settings, _say))
    except (ValidationError, SettingsError) as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; everything was stopped", 130)
    except TimeoutError as error:
        return _fail(f"a run did not end in time {error}", 1)
    return 0 if result["held"] else 1


def _say(line: str) -> None:
    sys.stdout.write(f"[chaos] {line}\n")
    sys.stdout.flush()


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"python -m chaos: {message}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
