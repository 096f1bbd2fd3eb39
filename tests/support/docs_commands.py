"""The commands that the pages print, and whether the real parsers take them, without running what follows."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from tests.support.paths import ROOT
from varl.cli import main

FENCED = re.compile(r"^ *```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`((?:\.venv/bin/)?(?:varl|make|python -m) [^`]+)`(?!`)")
PROGRAMS = ("varl", "make", "python", "python3")
ENDS = {"&&", "||", "|", "&", ";", ">", ">>", "<", "(", ")"}  # of a command within a line
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Printed:
    """A command of a page: its words, the program's without its folder."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


class ParsedError(BaseException):
    """The arguments were parsed: nothing else is to be done."""


def pages() -> list[Path]:
    """Every page of the site, and the repository's own."""
    folders = ("docs", "k8s", "policy", "policy/nextflow", "policy/infinity", "checkpoints/tiny_signs")
    found = [page for folder in folders for page in sorted((ROOT / folder).glob("*.md"))]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *found]


def blocks(page: Path) -> list[str]:
    """The shell blocks of a page, as they are pasted."""
    return list(FENCED.findall(page.read_text(encoding="utf-8")))


def printed(page: Path) -> list[Printed]:
    """The commands of a page's shell blocks that are ours."""
    name = str(page.relative_to(ROOT))
    lines = [line for block in blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    return [Printed(name, words) for line in lines for words in _commands(line)]


def mentioned(page: Path) -> list[Printed]:
    """The commands that a page's text names, often without their arguments."""
    name = str(page.relative_to(ROOT))
    spans = [span.replace("\n", " ") for span in SPAN.findall(page.read_text(encoding="utf-8"))]
    return [Printed(name, words) for span in spans for words in _commands(span.replace("'", " "))]


def _commands(line: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in ENDS:
            words += [] if not words and ASSIGNMENT.match(word) else [word]
            continue
        if words and Path(words[0]).name in PROGRAMS:
            yield Path(words[0]).name, *words[1:]
        words = []


def problem(command: Printed) -> str:
    """What is wrong with a command's arguments; empty: the real parser takes them."""
    program, *arguments = command.words
    known = unknown(command)
    if known or program == "make":
        return known
    if program == "varl":
        return _parsed(lambda: main(arguments))
    module, rest = arguments[1], arguments[2:]
    return _parsed(lambda: _run_module(module, rest)) if rest and module != "pip" else ""


def unknown(command: Printed) -> str:
    """The sub-command, target or module of a command that does not exist; empty: it does."""
    program, *arguments = command.words
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in arguments if not ASSIGNMENT.match(word) and word not in ("-C", "-j")]
        return "".join(f"no target {target}; " for target in targets if f"\n{target}:" not in makefile)
    if program == "varl":
        named = [word for word in arguments[: 2 if arguments[0] == "serve" else 1] if word != "…"]
        status = _parsed(lambda: main([*named, "--help"]))
        return f"no command {arguments[0]}" if status else ""
    if arguments[0] != "-m":
        return f"python {arguments[0]} is no module"
    return "" if find_spec(arguments[1]) else f"no module {arguments[1]}"


def _run_module(module: str, arguments: Sequence[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _parsed(act: Callable[[], int]) -> str:
    """What ``act`` says where its arguments are refused; it is stopped as soon as they are parsed."""
    read, make = argparse.ArgumentParser.parse_args, BaseSettings.__init__

    def parse_args(self: argparse.ArgumentParser, given: Sequence[str] | None = None, into: object = None) -> object:
        found = read(self, given, into)
        if type(self).__module__.startswith("pydantic_settings"):
            return found  # the settings check the values yet
        raise ParsedError

    def init(self: BaseSettings, **values: object) -> None:
        make(self, **values)  # type: ignore[arg-type]
        if "_cli_parse_args" in values:
            raise ParsedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patch.setattr(BaseSettings, "__init__", init)
        try:
            status: object = act()
        except ParsedError:
            return ""
        except SystemExit as left:
            status = left.code
    return f"status {status}" if status else ""
