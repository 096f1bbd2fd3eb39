"""How the images look, which no reward is trained on: where these drift while a reward rises, it may be gamed."""

from __future__ import annotations

import math

from varl.evaluation.measures.base import Measure, Share, images
from varl.v1 import trajectory_pb2

BY_NAME = "appearance/"
COLOUR = ("lightness", "a", "b")  # CIELAB
FIGURES = ("dark", "saturated", "sharpness", "background_entropy", "text_area", "text_contrast", *COLOUR)


def one_figure(name: str) -> Measure:
    """A figure of services/rollout/appearance, averaged over the images that have it."""

    def share(group: trajectory_pb2.Group) -> Share:
        found = [image.appearance[name] for image in images(group) if name in image.appearance]
        return math.fsum(found), float(len(found))

    return Measure(BY_NAME + name, share)


APPEARANCE = tuple(map(one_figure, FIGURES))
