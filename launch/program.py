"""How a command was started, for its usage lines and messages, and what a mistyped word or flag was meant to be."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, SettingsError

S = TypeVar("S", bound=BaseSettings)

_command: ContextVar[str | None] = ContextVar("command", default=None)
_UNKNOWN_FLAGS = re.compile(r"unrecognized arguments: (?P<given>.*)", re.DOTALL)


@contextmanager
def started_as(command: str) -> Iterator[None]:
    """Within the block ``program`` answers ``command``, for example "varl serve ocr"."""
    token = _command.set(command)
    try:
        yield
    finally:
        _command.reset(token)


def program(module: str) -> str:
    """The words that started this process.

    Those of ``started_as``, else ``python -m`` with ``module`` as its user wrote it.

    module: its whole name, such as "varl.trainer"; ``python -m trainer`` runs it from a checkout as well.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    given = spec.name.removesuffix(".__main__") if spec else ""
    as_given = given if given and f".{module}".endswith(f".{given}") else module
    return _command.get() or f"python -m {as_given}"


def parse(cls: type[S], arguments: Sequence[str] | None = None) -> S:
    """Settings from flags (None: those of the process) and whatever else ``cls`` reads.

    The message for a mistyped flag suggests the flag that was meant.

    Raises:
        pydantic.ValidationError: a value is out of range, by its field.
        pydantic_settings.SettingsError: a flag is unknown or lacks its value.
        SystemExit: --help, after printing it.
    """
    module = (cls.model_config.get("cli_prog_name") or cls.__module__).removeprefix("python -m ")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return cls(_cli_parse_args=given, _cli_prog_name=program(module), _cli_exit_on_error=False)
    except SettingsError as error:
        raise SettingsError(explain_flags(str(error).removeprefix("error parsing CLI: "), flags_of(cls))) from error


def faults_of(error: ValidationError) -> str:
    """A line for each setting that was refused, by its dotted name."""
    return "\n".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())


def flags_of(cls: type[BaseModel], prefix: str = "--") -> list[str]:
    """The flags of settings, with their dashes; those of a section as --section.name."""
    kebab = cls.model_config.get("cli_kebab_case", False)
    flags = []
    for name, field in cls.model_fields.items():
        flag = prefix + (name.replace("_", "-") if kebab or field.validation_alias else name)
        section = _section(field.annotation)
        flags += flags_of(section, f"{flag}.") if section else [flag]
    return flags


def _section(annotation: object) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The text "; did you mean X?" for the known word that is most like ``word``, or nothing where none is."""
    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def explain_flags(message: str, known: Iterable[str]) -> str:
    """Argparse's ``message``, with what its unrecognized flags were meant to be.

    ``known`` are flags with their dashes.
    """
    found = _UNKNOWN_FLAGS.search(message)
    flags = [part.partition("=")[0] for part in found["given"].split() if part.startswith("--")] if found else []
    return message + "".join(did_you_mean(flag, known) for flag in flags)
