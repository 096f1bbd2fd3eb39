"""CLIPScore, PickScore and the aesthetic head over small checkpoints in the published formats."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from tests.support.tiny_clip import make_clip
from varl.reward import ErrorCode, Sample, SampleError, Score
from varl.services.clip.aesthetic import AestheticHead
from varl.services.clip.model import preprocess
from varl.services.clip.rewards import Aesthetic, ClipReward, ClipScore, PickScore
from varl.services.reward.load import load_reward
from varl.services.serving.batching.queue import BatchLimits
from varl.services.serving.plugin import RewardScorer
from varl.services.serving.scoring import StartError

PROMPTS = ("the tea", "a wall " * 60, "the")
RANDOM = np.random.default_rng(5)
SAMPLES = [Sample(prompt, RANDOM.integers(0, 256, (40, 33 + i, 3), np.uint8), ()) for i, prompt in enumerate(PROMPTS)]
BLANK = Sample(" ", SAMPLES[0].pixels, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(autouse=True)
def source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VARL_CLIP_MODEL", str(folder))


def vectors(folder: Path, prefix: str) -> tuple[Tensor, Tensor, float]:
    """What transformers itself makes of each sample alone: unit vectors of images and texts, and the logit scale."""
    model: Any = CLIPModel.from_pretrained(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    images, texts = [], []
    for sample in SAMPLES:
        ids = tokenizer(prefix + sample.prompt, truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            found = model(pixel_values=preprocess(Image.fromarray(sample.pixels), 32)[None], **ids)
        images.append(found.image_embeds[0])
        texts.append(found.text_embeds[0])
    return torch.stack(images), torch.stack(texts), float(model.logit_scale.detach().exp())


def loaded(kind: type[ClipReward]) -> ClipReward:
    reward = kind()
    reward.load("cpu")
    return reward


def values(reward: ClipReward) -> list[float]:
    found = reward.score(SAMPLES)
    assert all(isinstance(each, Score) for each in found)
    return [each.value for each in found if isinstance(each, Score)]


def test_clip_score_and_pick_score_are_those_of_the_papers(folder: Path) -> None:
    images, texts, _ = vectors(folder, "A photo depicts ")
    expected = 2.5 * (images * texts).sum(1).clamp(min=0)
    assert values(loaded(ClipScore)) == pytest.approx(expected.tolist(), abs=1e-5)
    images, texts, scale = vectors(folder, "")
    assert values(loaded(PickScore)) == pytest.approx((scale * (images * texts).sum(1)).tolist(), abs=1e-4)
    assert len(set(values(loaded(PickScore)))) == 3


@pytest.mark.parametrize("kind", [ClipScore, PickScore])
def test_a_blank_prompt_fails_alone(kind: type[ClipReward]) -> None:
    reward = loaded(kind)
    first, blank, third = reward.score([SAMPLES[0], BLANK, SAMPLES[2]])
    assert isinstance(first, Score)
    assert isinstance(third, Score)
    assert isinstance(blank, SampleError)
    assert blank.code is ErrorCode.INVALID_FIELD
    assert reward.score([BLANK]) == [blank]


class PublishedHead(nn.Module):
    """The published file's module, whose dropouts take numbers of their own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        sizes = (width, 12, 6, 4)
        inner = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.Dropout(0.2))]
        self.layers = nn.Sequential(*inner[:-1], nn.Linear(sizes[-1], 3), nn.Linear(3, 1))


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_the_aesthetic_head_reads_the_published_layout(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    torch.manual_seed(1)
    head, file = PublishedHead(8).eval(), tmp_path / f"head.{form}"
    if form == "pth":
        torch.save(head.state_dict(), file)
    else:
        save_file(head.state_dict(), file)
    monkeypatch.setenv("VARL_AESTHETIC_HEAD", str(file))
    images, _, _ = vectors(folder, "")
    with torch.no_grad():
        expected = head.layers(images)[:, 0].tolist()
    reward = loaded(Aesthetic)
    assert values(reward) == pytest.approx(expected, abs=1e-6)
    assert reward.score([BLANK]) == reward.score([SAMPLES[0]])  # the image alone counts


def test_a_file_that_is_no_head_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    for state, width in (
        (PublishedHead(8).state_dict(), 9),
        ({"layers.0.weight": torch.zeros(1, 8)}, 8),
        ({"layers.0.weight": torch.zeros(2, 8), "layers.0.bias": torch.zeros(2)}, 8),
        ({"other.0.weight": torch.zeros(1, 8)}, 8),
        ({}, 8),
    ):
        torch.save(state, tmp_path / "head.pth")
        with pytest.raises(ValueError, match="no head of linear layers"):
            AestheticHead(tmp_path / "head.pth", width)
    torch.save({"layers": print}, tmp_path / "head.pth")
    with pytest.raises(ValueError, match=r"head\.pth"):
        AestheticHead(tmp_path / "head.pth", 8)


async def test_the_service_states_the_weights_that_answer(folder: Path) -> None:
    kind = load_reward("varl.services.clip.rewards:PickScore")
    scorer = RewardScorer(kind, "cpu", BatchLimits(8))
    await scorer.start()
    assert scorer.reward == "pickscore"
    assert scorer.model.revision == loaded(PickScore).clip.revision
    assert len(scorer.model.revision) == 16
    assert isinstance(await scorer.score(SAMPLES[0], ""), Score)
    await scorer.close()


async def test_an_aesthetic_reward_without_its_head_does_not_start() -> None:
    with pytest.raises(StartError, match="VARL_AESTHETIC_HEAD"):
        await RewardScorer(Aesthetic, "cpu", BatchLimits(8)).start()
