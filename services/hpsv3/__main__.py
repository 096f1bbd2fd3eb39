"""``python -m varl.services.hpsv3``: the HPSv3 reward over gRPC and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from varl.services.hpsv3.compare import routes
from varl.services.hpsv3.engine import HPSv3Engine
from varl.services.hpsv3.scorer import HPSv3Scorer
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.serving.runner import run
from varl.services.serving.settings import parse_settings


def engine_builder(settings: HPSv3Settings) -> Callable[[], HPSv3Engine[Any]]:
    """What builds the engine, with the packages of the chosen one alone."""
    if settings.engine == "native":
        from varl.services.hpsv3.native import build_native

        return partial(build_native, settings)
    from varl.services.hpsv3.package_engine import build_package

    return partial(build_package, settings)


def build_scorer(settings: HPSv3Settings) -> HPSv3Scorer:
    """The scorer that the settings describe, not started yet."""
    place = settings.checkpoint
    folder = place if place is None or place.is_dir() else place.parent
    limits = settings.batch_limits(settings.max_batch, max_wait=settings.max_wait)
    return HPSv3Scorer(engine_builder(settings), limits, settings.decode_threads, settings.dtype, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; the exit code. ``arguments``: flags, default those of the process."""
    settings = parse_settings(HPSv3Settings, arguments)
    return run(settings, build_scorer(settings), routes=routes)


if __name__ == "__main__":
    raise SystemExit(main())
