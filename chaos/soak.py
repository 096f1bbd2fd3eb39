"""``python -m chaos.soak``: rewards, gateway and rollout under steady load.

The exit status is 1 if anything grows or a client failed.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError

from chaos.home import Home
from chaos.report import machine_words
from chaos.slope import Growth, second_half_slope
from chaos.soak_chart import write_chart
from chaos.soak_load import Load
from chaos.soak_rig import soak_rig
from chaos.soak_samples import Sampler, Series
from varl.launch.supervisor import sigterm_as_exit

SAMPLES = 240  # at least, however short the soak
LONGEST_S = 5.0  # between samples
TELL_EVERY_S = 30.0
# The most that counts as flat, an hour, by quantity: over a week the memory of a part would grow by 2.6 GiB, and Redis
# by 0.7 GiB.
ALLOWED = {"rss_mib": 16.0, "files": 4.0, "threads": 2.0, "in_hand": 4.0, "used_mib": 4.0}
EXPECTED = {
    "http: status 200",
    "rollout: group",
    *(f"grpc {name}: {outcome}" for name in ("ocr", "hpsv3") for outcome in ("score", "error")),
}


class SoakSettings(BaseSettings):
    """Loads rewards, gateway and a rollout worker steadily and checks that memory, open files and threads stay flat."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, cli_prog_name="python -m chaos.soak", cli_hide_none_type=True
    )

    minutes: float = Field(
        default=30.0, gt=0, description="How long; a slope of the second half is told from noise after 20 or so."
    )
    out: Path | None = Field(
        default=None, description="Folder of soak.json, soak.svg and logs; default: runs/soak/<date and time>."
    )


async def soak(settings: SoakSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the load and write soak.json and soak.svg; returns what soak.json holds.

    Raises OSError where a part ended meanwhile.
    """
    started, seconds = datetime.now(UTC), 60 * settings.minutes
    out = (settings.out or Path("runs/soak") / started.strftime("%Y%m%d-%H%M%S")).resolve()
    say("starting Redis, OCR, HPSv3, gateway and a rollout worker")
    async with soak_rig(Home(out, uuid.uuid4().hex)) as rig:
        load, sampler = Load(rig), Sampler(rig)
        loading = asyncio.create_task(load.run())
        telling = _every(
            TELL_EVERY_S, lambda now: say(f"{now / 60:.1f} of {settings.minutes:g} minutes: {_short(load.counts)}")
        )
        await sampler.run(seconds, min(LONGEST_S, seconds / SAMPLES), telling)
        broken = loading.exception() if loading.done() else None
        loading.cancel()
        await asyncio.wait({loading})
    facts: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "chaos.soak", *sys.argv[1:]]),
        "machine": machine_words(),
    }
    facts |= {
        "started": started.isoformat(timespec="seconds"),
        "minutes": settings.minutes,
        "broken": str(broken or ""),
    }
    result = {**facts, **judge(sampler.series, load.counts, str(broken or ""))}
    (out / "soak.json").write_text(json.dumps(result | {"series": sampler.series}, indent=1) + "\n", encoding="utf-8")
    write_chart(sampler.series, out / "soak.svg")
    say(f"{out / 'soak.json'}, soak.svg")
    return result


def judge(series: Series, counts: Mapping[str, int], broken: str) -> dict[str, Any]:
    """Slopes and verdicts by column, the answers to the load, and whether the system is sound.

    It is sound if nothing grew and nothing failed that should not have.
    """
    slopes = {}
    for name, values in series.items():
        allowed = ALLOWED.get(name.rpartition(" ")[2])
        if allowed is not None:
            slope = second_half_slope(series["seconds"], values)
            slopes[name] = {**asdict(slope), "allowed": allowed, "verdict": slope.growth(allowed).value}
    unexpected = {name: number for name, number in counts.items() if name not in EXPECTED}
    missing = sorted(EXPECTED - counts.keys())
    verdicts = Counter(slope["verdict"] for slope in slopes.values())
    sound = not unexpected and not missing and not broken and not verdicts[Growth.GROWING]
    return {
        "sound": sound,
        "verdicts": verdicts,
        "slopes": slopes,
        "answers": dict(counts),
        "unexpected": unexpected,
        "missing": missing,
    }


def table(result: Mapping[str, Any]) -> str:
    """The slopes in Markdown."""
    lines = ["| what | level | slope an hour (95 %) | allowed | verdict |", "|---|---|---|---|---|"]
    for name, row in result["slopes"].items():
        reach = f"{row['per_hour']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"
        lines.append(f"| {name} | {row['level']:.1f} | {reach} | {row['allowed']:g} | {row['verdict']} |")
    return "\n".join(lines)


def _every(seconds: float, tell: Callable[[float], None]) -> Callable[[float], None]:
    told = -seconds

    def now_and_then(now: float) -> None:
        nonlocal told
        if now - told >= seconds:
            told = now
            tell(now)

    return now_and_then


def _short(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "nothing yet"


def main(arguments: list[str]) -> int:
    """Run a soak; the exit status: 0, 1 where something grows or failed, 2 for a bad flag, 130 for Ctrl-C."""
    try:
        settings = CliApp.run(SoakSettings, cli_args=arguments)
        with sigterm_as_exit():
            result = asyncio.run(soak(settings, _say))
    except (ValidationError, SettingsError) as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("interrupted; everything was stopped", 130)
    except OSError as error:
        return _fail(f"a part ended: {error}", 1)
    _say(f"\n{table(result)}\nanswers: {_short(result['answers'])}")
    _say(f"unexpected: {result['unexpected']}, missing: {result['missing']}, broken: {result['broken'] or 'nothing'}")
    return 0 if result["sound"] else 1


def _say(line: str) -> None:
    sys.stdout.write(f"[soak] {line}\n")
    sys.stdout.flush()


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"python -m chaos.soak: {message}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
