"""What ``varl`` can do.

For each command the module whose ``main(arguments)`` does it, and the extra with its packages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A sub-command. module: imported when it is called; extra: of the package varl, what it needs to run."""

    module: str
    extra: str
    summary: str


@dataclass(frozen=True)
class Plugin:
    """A reward of varl's own that goes through ``varl.reward``: where it stands, and the extra with its packages."""

    place: str
    extra: str
    summary: str


COMMANDS = {
    "demo": Entry(
        "varl.studies.demo",
        "demo",
        "train a small model on this machine, with an evaluation before and after, and a report",
    ),
    "train": Entry("varl.trainer.__main__", "trainer", "the trainer, by a recipe"),
    "convert": Entry("varl.cli.convert", "policy", "published Infinity files as a model folder"),
    "export": Entry("varl.cli.export", "trainer", "trained weights as the model was published, with a model card"),
    "encode": Entry("varl.cli.encode", "hpsv3", "encode a run's prompts once, for an Infinity model"),
    "generate": Entry("varl.cli.generate", "policy", "pictures from a prompt"),
    "evaluate": Entry("varl.cli.evaluate", "demo", "figures of weights and samplers on held-out prompts"),
    "benchmark": Entry("varl.cli.benchmark", "demo", "judge images by CVTG-2K, HPSv3's benchmark or a prompt file"),
    "prompts": Entry("varl.cli.prompts", "demo", "a prompt file of recipes from published prompts"),
    "study": Entry("varl.cli.study", "demo", "train several arms at several seeds, and compare them"),
    "compare": Entry("varl.cli.compare", "trainer", "two finished runs, paired by held-out prompt"),
    "gateway": Entry("varl.services.gateway.__main__", "serving", "one URL for several reward services"),
    "rollout": Entry("varl.services.rollout.__main__", "rollout", "a rollout worker of a training run"),
    "score": Entry("varl.cli.score", "client", "score image files by a reward service"),
    "report": Entry("varl.cli.report", "trainer", "write report.html of a run directory again"),
}

PLUGINS = {
    "clipscore": Plugin("varl.services.clip.rewards:ClipScore", "clip", "CLIPScore: does the image fit the prompt?"),
    "pickscore": Plugin("varl.services.clip.rewards:PickScore", "clip", "PickScore: a CLIP tuned on people's choices"),
    "aesthetic": Plugin("varl.services.clip.rewards:Aesthetic", "clip", "LAION's aesthetic score of the image alone"),
    "judge": Plugin("varl.services.judge.reward:Judge", "judge", "a model behind any OpenAI-compatible server"),
}

SERVICES = {
    "ocr": Entry("varl.services.ocr.__main__", "ocr", "OCR: are the target words in the image?"),
    "hpsv3": Entry("varl.services.hpsv3.__main__", "hpsv3", "HPSv3: how much would people prefer the image?"),
    **{name: Entry("varl.services.reward.__main__", plugin.extra, plugin.summary) for name, plugin in PLUGINS.items()},
    "PATH.py:Class": Entry(
        "varl.services.reward.__main__", "serving", "a reward of your own: a class of a Python file"
    ),
}
