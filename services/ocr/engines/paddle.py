"""PP-OCRv5 on PaddlePaddle, for who has the weights or a network to fetch them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

from varl.services.ocr.engines.base import EngineModel, EngineUnavailableError
from varl.services.ocr.engines.looks import DEFAULT_LOOKS, Looks
from varl.services.ocr.engines.pipeline import PipelineEngine, build_pipeline, digest

Variant = Literal["mobile", "server"]


def build_paddle(
    variant: Variant = "mobile",
    detection_dir: Path | None = None,
    recognition_dir: Path | None = None,
    device: str = "cpu",
    threads: int = 1,
    looks: Looks = DEFAULT_LOOKS,
) -> PipelineEngine:
    """PP-OCRv5 ``variant`` from local Paddle model folders, or by name from Paddle's hub where a folder is not given.

    Raises:
        EngineUnavailableError: paddlepaddle is not installed, a folder holds no such model, or the hub cannot be
            reached.

    """
    if importlib.util.find_spec("paddle") is None:
        raise EngineUnavailableError(
            "the engine 'paddle' needs the extra 'ocr-paddle' (pip install 'varl[ocr-paddle]')"
        )
    detection, recognition = f"PP-OCRv5_{variant}_det", f"PP-OCRv5_{variant}_rec"
    pipeline = build_pipeline(
        **_model_options("text_detection", detection, detection_dir),
        **_model_options("text_recognition", recognition, recognition_dir),
        device=device,
        cpu_threads=threads,
        enable_mkldnn=False,  # paddlepaddle 3.3.0 and 3.3.1 fail at the first prediction with it (Paddle#77340)
    )
    folders = [_folder(detection, detection_dir), _folder(recognition, recognition_dir)]
    revision = digest(path for folder in folders for path in _weight_files(folder))
    return PipelineEngine(pipeline, EngineModel("paddleocr-paddle", f"{detection}+{recognition}", revision), looks)


def _model_options(role: str, name: str, folder: Path | None) -> dict[str, Any]:
    # Name and folder go together: PaddleOCR compares a folder with its own default name otherwise (ocr.md section 1.1).
    return {f"{role}_model_name": name, f"{role}_model_dir": str(folder) if folder else None}


def _folder(name: str, given: Path | None) -> Path:
    if given:
        return given
    from paddlex.utils.cache import CACHE_DIR  # type: ignore[import-untyped]

    return Path(CACHE_DIR) / "official_models" / name


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(
        path
        for pattern in ("inference.json", "inference.pdmodel", "inference.pdiparams")
        for path in folder.glob(pattern)
    )
    if not files:
        raise EngineUnavailableError(
            f"{folder} holds no Paddle model (inference.json or inference.pdmodel, and inference.pdiparams)"
        )
    return files
