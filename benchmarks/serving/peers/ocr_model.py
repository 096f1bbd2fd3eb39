"""The OCR reward in one call, for servers that are not ours.

The same engine, decoding and formula without any check.
"""

from __future__ import annotations

from benchmarks.serving.payload import decode
from varl.services.ocr.engines.base import EngineFailure
from varl.services.ocr.engines.onnx import build_onnx
from varl.services.ocr.reward import FORMULAS, Recognized
from varl.services.ocr.targets import words_in_quotes


class OCRModel:
    """One engine on one thread, as one lane of the service has."""

    def __init__(self) -> None:
        self._engine = build_onnx(threads=1)

    def __call__(self, prompt: str, image: bytes) -> float:
        """The reward of one PNG file."""
        (reading,) = self._engine.read([decode(image)])
        if isinstance(reading, EngineFailure):
            raise RuntimeError(reading.detail)
        words = [Recognized(word.text, word.confidence) for word in reading]
        return FORMULAS["comp_sim_pen"](words_in_quotes(prompt), words).value
