"""Which reward service a command asks: a running one, or one that is started for the call."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from varl.cli.commands import PLUGINS
from varl.cli.parser import Parser
from varl.client import RewardClient
from varl.launch.rewards import SYNTHETIC_NOTE, is_synthetic, reward_command
from varl.launch.supervisor import Supervisor
from varl.services.reward.place import check_place

URL = "http://127.0.0.1:8080"  # where varl serve listens unless it is told otherwise


def add_service(parser: argparse.ArgumentParser, default_url: str | None) -> None:
    """Add --url, --reward and --token-file."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default=default_url, help="address of a running reward service or gateway")
    where.add_argument(
        "--reward",
        metavar="REWARD",
        help="start a service for this call: ocr, hpsv3 (the synthetic model, unless VARL_HPSV3_CHECKPOINT "
        f"names another), {', '.join(PLUGINS)}, PATH.py:Class or package.module:Class",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with the bearer token that the service wants"
    )


@contextmanager
def reward_client(parser: Parser, flags: argparse.Namespace) -> Iterator[RewardClient]:
    """A client of the service that the flags name; one of --reward is started and stopped here."""
    with _service(parser, flags) as url, RewardClient(url, token=_token(flags.token_file)) as client:
        yield client


def _token(file: Path | None) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file else None


@contextmanager
def _service(parser: Parser, flags: argparse.Namespace) -> Iterator[str]:
    if not flags.reward:
        yield flags.url
        return
    command = _command(parser, flags.reward)
    with tempfile.TemporaryDirectory(prefix="varl-reward-") as directory, Supervisor(Path(directory)) as supervisor:
        yield f"http://127.0.0.1:{supervisor.start('reward', command)['http_port']}"


def _command(parser: Parser, reward: str) -> list[str]:
    """Command of the service; for a reward that cannot be started the process ends with a message that says why."""
    place = PLUGINS[reward].place if reward in PLUGINS else reward
    try:
        if ":" in place:
            check_place(place)
        if is_synthetic(place):
            sys.stderr.write(f"{parser.prog}: {SYNTHETIC_NOTE}\n")
        return reward_command(place)
    except ValueError as error:
        parser.error(f"argument --reward: {error}")
