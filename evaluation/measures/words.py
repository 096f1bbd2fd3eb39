"""What stands in an image according to the rewards: the one place that knows where a trajectory message holds it."""

from __future__ import annotations

from varl.evaluation.results import ReadWord
from varl.v1 import trajectory_pb2


def read_words(image: trajectory_pb2.Continuation) -> list[ReadWord]:
    """The words that the OCR reward read in an image, in order."""
    read = (region for region in image.regions if region.reward == "ocr")
    return [ReadWord(text=word.text, confidence=word.confidence, polygon=tuple(word.polygon)) for word in read]
