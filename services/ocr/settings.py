"""Settings of the OCR reward service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.settings import ServingSettings


class OCRSettings(ServingSettings):
    """Reward for the text that an image shows: reads it with PaddleOCR and compares it with the target words."""

    model_config = SettingsConfigDict(env_prefix="VARL_OCR_", cli_prog_name="python -m varl.services.ocr")

    engine: Literal["onnx", "paddle"] = Field(
        "onnx",
        description="onnx: PP-OCRv6 small on ONNX Runtime, from the rapidocr wheel, offline. "
        "paddle: PP-OCRv5 on PaddlePaddle.",
    )
    formula: Literal["comp_sim_pen", "comp_sim_pen_symmetric", "flow_grpo"] = Field(
        "comp_sim_pen",
        description="Formula of requests that name none. comp_sim_pen: of the paper, -0.6 to 2; the symmetric one "
        "counts its penalty on both sides; flow_grpo: 1 - edit distance / target length, 0 to 1.",
    )
    workers: int = Field(1, ge=1, le=256, description="Engine instances, each on its own thread.")
    engine_threads: int = Field(1, ge=1, description="Threads inside one engine instance.")
    model_cache: Path | None = Field(
        None, description="Folder for the onnx engine's model files; default: the user's cache folder."
    )
    paddle_variant: Literal["mobile", "server"] = Field("mobile", description="PP-OCRv5 models of the paddle engine.")
    paddle_detection_dir: Path | None = Field(
        None, description="Local folder of the paddle detection model; default: Paddle's hub."
    )
    paddle_recognition_dir: Path | None = Field(
        None, description="Local folder of the paddle recognition model; default: Paddle's hub."
    )
    device: str = Field("cpu", description="Device of the paddle engine: cpu, gpu:0, …")

    def reading_limits(self) -> BatchLimits:
        """Half of each worker's part of the queue at most: the rest is there for whoever is free."""
        # An engine reads one image after the other, so that a batch saves nothing of its own time, but the event loop's
        # work for images that come and go together is half of what it is for one at a time: their code and data stay in
        # the core's caches.
        return self.batch_limits(8, max_cost=2**20, share=0.5 / self.workers)
