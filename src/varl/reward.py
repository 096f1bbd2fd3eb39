"""A reward of one's own: ``from varl.reward import Reward``.

.. code-block:: python

    class Brightness(Reward):
        name = "brightness"

        def score(self, samples):
            return [float(sample.pixels.mean()) / 255 for sample in samples]

``varl serve FILE.py:Brightness`` serves it, ``serve = "FILE.py:Brightness"`` in a recipe trains on it:
docs/own_reward.md.
"""

from __future__ import annotations

from varl.services.serving.batching.queue import FatalModelError
from varl.services.serving.plugin import Reward
from varl.services.serving.scoring import ErrorCode, Region, SampleError
from varl.services.serving.scoring import SampleScore as Score
from varl.services.serving.scoring import ScorerSample as Sample

__all__ = ["ErrorCode", "FatalModelError", "Region", "Reward", "Sample", "SampleError", "Score"]
