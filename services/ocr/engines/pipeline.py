"""The PaddleOCR 3.7 pipeline as an engine, whatever runs its two models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from varl.services.ocr.engines.base import (
    INSTALL_REST,
    EngineFailure,
    EngineModel,
    EngineUnavailableError,
    Image,
    Reading,
    ReadWord,
    TooMuchText,
)
from varl.services.ocr.engines.detection import BoundedDetection, TooMuchTextError
from varl.services.ocr.engines.folders import PADDLEX_HOME, give_paddlex_a_home
from varl.services.ocr.engines.looks import Looks, detection_options, merged
from varl.services.ocr.engines.words import split_line

# Images down to 64 pixels are read at their own size, no line is dropped for its score, no extra model turns or
# unwarps the image, and lines are recognised one by one: in a batch the widest crop sets the padding of all, which
# changes what is read (ocr.md section 2.4).
PIPELINE_OPTIONS: Mapping[str, Any] = {
    "use_doc_orientation_classify": False,
    "use_doc_unwarping": False,
    "use_textline_orientation": False,
    "text_det_limit_side_len": 64,
    "text_det_limit_type": "min",
    "text_rec_score_thresh": 0.0,
    "text_recognition_batch_size": 1,
    "return_word_box": True,
}


class PipelineEngine:
    """An ``OcrEngine`` on a PaddleOCR pipeline, which looks for text as ``looks`` say."""

    def __init__(self, pipeline: Any, model: EngineModel, looks: Looks = Looks()) -> None:  # noqa: ANN401, B008
        self._pipeline = pipeline
        self._looks = looks
        self._model = EngineModel(model.engine, f"{model.name}, detection at {looks}", model.revision)

    @property
    def model(self) -> EngineModel:
        """Engine, model names with the sides of detection, and digest of the weights."""
        return self._model

    def read(self, images: Sequence[Image]) -> list[Reading]:
        """One reading per uint8 [H, W, 3] RGB image; what the pipeline raises on an image is that image's failure."""
        return [self._look(image, self._looks.side) for image in images]

    def read_closer(self, image: Image, first: list[ReadWord]) -> Reading:
        """The reading that two looks give together, ``first`` being that of ``read``; ``first`` where one is enough."""
        longer = max(image.shape[:2])
        side = self._looks.closer_side(longer)
        if side is None:
            return first
        second = self._look(image, side)
        if isinstance(second, EngineFailure):
            return second
        return merged(first, second, min(1.0, self._looks.side / longer))

    def _look(self, image: Image, side: int) -> Reading:
        try:
            options = detection_options(side, max(image.shape[:2]))
            (result,) = self._pipeline.predict(np.ascontiguousarray(image[:, :, ::-1]), **options)  # it takes BGR
            words = _words(result)
        except TooMuchTextError as error:
            return TooMuchText(str(error))
        except Exception as error:  # the pipeline documents no exceptions; one image must not end the service
            return EngineFailure(f"{type(error).__name__}: {error}")
        return [word for word in words if not word.confidence < self._looks.least_confidence]


def _words(result: Mapping[str, Any]) -> list[ReadWord]:
    lines = zip(
        result["rec_texts"],
        result["rec_scores"],
        result["rec_polys"],
        result["text_word"],
        result["text_word_region"],
        strict=True,
    )
    return [
        word
        for text, score, quad, items, boxes in lines
        for word in split_line(
            text, 1.0 if score > 1 else float(score), np.asarray(quad, dtype=np.float64).tolist(), items, boxes
        )
    ]


def build_pipeline(**options: Any) -> Any:  # noqa: ANN401
    """A PaddleOCR pipeline with this module's options and the given ones.

    Raises:
        EngineUnavailableError: paddleocr is not installed, has no folder to write to, or refuses the models.

    """
    try:
        give_paddlex_a_home()
        import cv2
        from paddleocr import PaddleOCR
    except ImportError as error:
        raise EngineUnavailableError(
            f"the OCR engines need pip install 'varl[ocr]', then {INSTALL_REST}: {error}"
        ) from error
    except OSError as error:  # paddlex makes its folders at import
        raise EngineUnavailableError(
            f"PaddleOCR's folder cannot be written; name one by {PADDLEX_HOME}: {error}"
        ) from error
    cv2.setNumThreads(1)  # the lanes decide how many cores are used
    try:
        pipeline = PaddleOCR(**PIPELINE_OPTIONS, **options)
        models = pipeline.paddlex_pipeline._pipeline
        models.text_det_model = BoundedDetection(models.text_det_model)
        return pipeline
    except (
        Exception
    ) as error:  # constructors raise plain Exception, ValueError, FileNotFoundError, RuntimeError (ocr.md section 1.1)
        raise EngineUnavailableError(f"PaddleOCR cannot be built: {type(error).__name__}: {error}") from error


def digest(paths: Iterable[Path]) -> str:
    """First 12 hex digits of the SHA-256 over the files' contents, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:12]
