"""A reward of one's own: how bright a picture is. ``varl serve examples/brightness.py:Brightness`` serves it."""

from varl.reward import Reward


class Brightness(Reward):
    """Mean of all pixels and channels, 0 for black to 1 for white."""

    name = "brightness"

    def load(self, device):
        """Nothing to load; a model would go to ``device`` here."""

    def score(self, samples):
        """One number for each sample."""
        return [float(s.pixels.mean()) / 255 for s in samples]
