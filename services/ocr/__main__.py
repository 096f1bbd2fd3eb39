"""``python -m varl.services.ocr``: the OCR reward over gRPC and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from varl.services.ocr.engines.base import OcrEngine
from varl.services.ocr.scorer import OCRScorer
from varl.services.ocr.settings import OCRSettings
from varl.services.serving.runner import run
from varl.services.serving.settings import parse_settings


def engine_builder(settings: OCRSettings) -> Callable[[], OcrEngine]:
    """What builds one engine instance, with the packages of the chosen engine alone."""
    if settings.engine == "onnx":
        from varl.services.ocr.engines.onnx import build_onnx

        return partial(build_onnx, settings.model_cache, settings.engine_threads, settings.model, settings.looks())
    from varl.services.ocr.engines.paddle import build_paddle

    return partial(
        build_paddle,
        settings.paddle_variant,
        settings.paddle_detection_dir,
        settings.paddle_recognition_dir,
        settings.device,
        settings.engine_threads,
        settings.looks(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; the exit code. ``arguments``: flags, default those of the process."""
    settings = parse_settings(OCRSettings, arguments)
    strict = settings.engine == "onnx"
    scorer = OCRScorer(
        engine_builder(settings),
        settings.workers,
        strict,
        settings.reading_limits(),
        settings.target_rule,
        settings.formula,
    )
    return run(settings, scorer)


if __name__ == "__main__":
    raise SystemExit(main())
