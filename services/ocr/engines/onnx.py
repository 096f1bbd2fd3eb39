"""The default engine: PP-OCRv6 small or PP-OCRv5 mobile on ONNX Runtime, offline."""

from __future__ import annotations

from pathlib import Path

from varl.services.ocr.engines.base import EngineModel
from varl.services.ocr.engines.looks import DEFAULT_LOOKS, Looks
from varl.services.ocr.engines.model_cache import DEFAULT_MODEL, Model, default_cache, prepare
from varl.services.ocr.engines.pipeline import PipelineEngine, build_pipeline


def build_onnx(
    cache: Path | None = None, threads: int = 1, model: Model = DEFAULT_MODEL, looks: Looks = DEFAULT_LOOKS
) -> PipelineEngine:
    """The PaddleOCR pipeline with ``engine="onnxruntime"`` on models out of wheels.

    ``threads`` is ONNX Runtime's intra-op count: more than one gains little at these sizes and spins when cores are
    shared.

    Raises:
        EngineUnavailableError: a package, a model file or the cache folder is missing.

    """
    folders = prepare(cache or default_cache(), model)
    detection, recognition = folders.detection.name, folders.recognition.name
    pipeline = build_pipeline(
        text_detection_model_name=detection,
        text_detection_model_dir=str(folders.detection),
        text_recognition_model_name=recognition,
        text_recognition_model_dir=str(folders.recognition),
        device="cpu",
        engine="onnxruntime",
        engine_config={
            "intra_op_num_threads": threads,
            "inter_op_num_threads": 1,
            # ONNX Runtime's arena keeps what its largest picture took: 1.3 GiB after one full of letters.
            "enable_cpu_mem_arena": False,
        },
    )
    names = EngineModel("paddleocr-onnxruntime", f"{detection}+{recognition}", folders.revision)
    return PipelineEngine(pipeline, names, looks)
