"""Settings of the OCR reward service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.serving.settings import ServingSettings


class OCRSettings(ServingSettings):
    """Reward for the text that an image shows: reads it with PaddleOCR and compares it with the words asked for."""

    model_config = SettingsConfigDict(env_prefix="VARL_OCR_", cli_prog_name="python -m services.ocr")

    engine: Literal["onnx", "paddle"] = Field(
        "onnx", description="onnx: PP-OCRv6 small on ONNX Runtime, from the rapidocr wheel, offline. paddle: PP-OCRv5 on PaddlePaddle."
    )
    workers: int = Field(1, ge=1, le=256, description="Engine instances, each on its own thread.")
    engine_threads: int = Field(1, ge=1, description="Threads inside one engine instance.")
    model_cache: Path | None = Field(None, description="Folder for the onnx engine's model files; default: the user's cache folder.")
    paddle_variant: Literal["mobile", "server"] = Field("mobile", description="PP-OCRv5 models of the paddle engine.")
    paddle_detection_dir: Path | None = Field(None, description="Local folder of the paddle detection model; default: Paddle's hub.")
    paddle_recognition_dir: Path | None = Field(None, description="Local folder of the paddle recognition model; default: Paddle's hub.")
    device: str = Field("cpu", description="Device of the paddle engine: cpu, gpu:0, …")
