"""Word Accuracy and NED of what the OCR reward read, as CVTG-2K computes them."""

from __future__ import annotations

import math

from varl.evaluation.measures.base import Measure, Share, images
from varl.evaluation.measures.words import read_words
from varl.services.ocr.metrics import ned_values, word_accuracy_counts
from varl.v1 import trajectory_pb2

REWARD = "ocr"  # the reward that reads


def _word_accuracy(group: trajectory_pb2.Group) -> Share:
    counts = [word_accuracy_counts(group.job.target_words, read) for read in _read(group)]
    return float(sum(hits for hits, _ in counts)), float(sum(words for _, words in counts))


def _ned(group: trajectory_pb2.Group) -> Share:
    values = [value for read in _read(group) for value in ned_values(group.job.target_words, read)]
    return math.fsum(values), float(len(values))


def _read(group: trajectory_pb2.Group) -> list[list[str]]:
    return [[word.text for word in read_words(image)] for image in images(group)]


WORD_ACCURACY = Measure("word_accuracy", _word_accuracy)
NED = Measure("ned", _ned)
