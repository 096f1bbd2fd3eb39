"""The command ``varl``: one name for everything that is started from a shell.

A sub-command's module is imported only when it is called.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

from varl.cli.commands import COMMANDS, PLUGINS, SERVICES, Entry
from varl.launch.program import did_you_mean, started_as
from varl.launch.streams import keep_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; the exit status: the sub-command's own, or 2 where there is no such command.

    arguments: without the program's name; default: those of the process.
    """
    keep_streams()
    given = sys.argv[1:] if arguments is None else list(arguments)
    _log_resources()
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0 if given else 2
    name, *rest = given
    if name == "serve":
        return _serve(rest)
    if name not in COMMANDS:
        return _unknown("varl", "command", name, [*COMMANDS, "serve"])
    return _run(COMMANDS[name], f"varl {name}", rest)


def _serve(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_serve_help())
        return 0 if arguments else 2
    reward, *rest = arguments
    if _is_code(reward):  # the service of a reward of one's own takes its place as an argument
        return _run(SERVICES["PATH.py:Class"], f"varl serve {reward}", arguments)
    if reward in PLUGINS:
        return _run(SERVICES[reward], f"varl serve {reward}", [PLUGINS[reward].place, *rest])
    if reward not in SERVICES:
        return _unknown("varl serve", "reward", reward, SERVICES)
    return _run(SERVICES[reward], f"varl serve {reward}", rest)


def _is_code(reward: str) -> bool:
    """PATH.py:Class or package.module:Class."""
    return ":" in reward


def _run(entry: Entry, command: str, arguments: Sequence[str]) -> int:
    """Call the entry's ``main``; a package that is not installed is answered with the extra that has it."""
    try:
        with started_as(command):
            status: int = import_module(entry.module).main(list(arguments))
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == "varl":
            raise  # a fault of ours, no missing extra
        sys.stderr.write(f"{command} needs: pip install 'varl[{entry.extra}]' (there is no module {error.name} here)\n")
        return 1
    return status


def _unknown(program: str, kind: str, word: str, known: Iterable[str]) -> int:
    hint = did_you_mean(word, known) or f"; {program} --help lists them"
    sys.stderr.write(f"{program}: there is no {kind} {word!r}{hint}\n")
    return 2


def _overview() -> str:
    rows = [(name, entry.summary) for name, entry in COMMANDS.items()]
    rows.insert(10, ("serve REWARD", "a reward service: ocr, hpsv3 or PATH.py:Class"))
    return _listing("usage: varl COMMAND [--help] …", rows, "varl COMMAND --help lists the flags of a command.")


def _serve_help() -> str:
    rows = [(name, entry.summary) for name, entry in SERVICES.items()]
    return _listing("usage: varl serve REWARD [--help] …", rows, "varl serve ocr --help lists the flags of a service.")


def _listing(usage: str, rows: Sequence[tuple[str, str]], end: str) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([usage, "", *(f"  {name:{width}}  {summary}" for name, summary in rows), "", end, ""])


def _log_resources() -> None:
    """Show which files of the package are used, in commands that configure no logging as well."""
    logger = logging.getLogger("varl.resources")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
