"""One whole trial: the undisturbed run, the disturbed one, evidence, verdicts, files."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos.driver import Driver, Record
from chaos.evidence import Evidence, QueueLeft, RunFacts, files_left, processes_left, queue_left, run_facts
from chaos.invariants import judge
from chaos.part import Exit
from chaos.report import as_json, as_markdown, machine_words
from chaos.rig import Rig, RunSpec, running
from chaos.schedule import schedule
from chaos.settings import ChaosSettings

Say = Callable[[str], None]
SECONDS_A_FAULT, SECONDS_AN_UPDATE, SECONDS_TO_START = 90, 20, 600  # limits on a machine that is very busy


TELL_EVERY = 10  # updates


@dataclass(frozen=True)
class _Ended:
    """One run after its end."""

    facts: RunFacts
    queue: QueueLeft
    exits: list[Exit]
    records: list[Record]
    rubbish: dict[str, str]
    seconds: float


async def trial(settings: ChaosSettings, say: Say) -> dict[str, Any]:
    """Do both runs and write chaos.json and chaos.md; returns what chaos.json holds.

    Raises TimeoutError where a run does not end; everything is stopped then.
    """
    out = settings.out or Path("runs/chaos") / datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    specs = [
        RunSpec(out.resolve() / name, uuid.uuid4().hex, name, settings.updates, settings.seed)
        for name in ("calm", "chaos")
    ]
    started = datetime.now(UTC)
    calm, disturbed = [await _one(spec, settings, number, say) for number, spec in enumerate(specs)]
    evidence = Evidence(
        updates=settings.updates,
        groups=specs[1].recipe.rollout.prompts_per_update,
        calm=calm.facts,
        disturbed=disturbed.facts,
        queue=disturbed.queue,
        processes=[process for spec in specs for process in processes_left(spec)],
        files=files_left(specs[1], specs[0]),
        exits=disturbed.exits,
        rubbish=disturbed.rubbish,
        records=disturbed.records,
    )
    facts = {
        "command": shlex.join(["python", "-m", "chaos", *sys.argv[1:]]),
        "machine": machine_words(),
        "seed": settings.seed,
    }
    facts |= {"updates": settings.updates, "started": started.isoformat(timespec="seconds")}
    facts |= {"undisturbed_s": round(calm.seconds, 1), "disturbed_s": round(disturbed.seconds, 1)}
    result = as_json(facts, evidence, judge(evidence))
    _write(out, result, say)
    return result


async def _one(spec: RunSpec, settings: ChaosSettings, disturbed: int, say: Say) -> _Ended:
    say(
        f"{spec.name}: starting Redis, OCR and workers"
        + (f"; {settings.faults} faults to come" if disturbed else ", no faults")
    )
    faults = schedule(settings.seed, settings.faults, settings.updates, settings.chosen()) if disturbed else []
    limit = SECONDS_TO_START + SECONDS_AN_UPDATE * settings.updates + SECONDS_A_FAULT * len(faults)
    async with asyncio.timeout(limit), running(spec) as rig:
        driver, began = Driver(rig, faults, say), time.monotonic()
        telling = asyncio.create_task(_tell_progress(rig, say))
        records = await driver.run()
        telling.cancel()
        seconds = time.monotonic() - began
        queue = await queue_left(rig)
    say(f"{spec.name}: {settings.updates} updates in {seconds:.0f} s")
    return _Ended(run_facts(rig), queue, _exits(rig), records, driver.field.rubbish, seconds)


async def _tell_progress(rig: Rig, say: Say) -> None:
    for update in range(0, rig.spec.updates, TELL_EVERY):
        await rig.progress(update)
        say(f"{rig.spec.name}: update {update} of {rig.spec.updates}")


def _exits(rig: Rig) -> list[Exit]:
    return [end for part in rig.parts for end in part.exits]


def _write(out: Path, result: dict[str, Any], say: Say) -> None:
    (out / "chaos.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = as_markdown(result)
    (out / "chaos.md").write_text(text, encoding="utf-8")
    say(f"{out / 'chaos.json'}\n\n{text}")
