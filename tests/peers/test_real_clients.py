"""The trainers' real client code, out of checkouts of theirs, against the routes that stand in for their servers.

``make peers PEERS=FOLDER``, where FOLDER holds clones under their own names; without it these tests are skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from tests.support.compat_rig import PATIENCE, Rig, ToyScorer, base64_of, grey, serving
from tests.support.peer_code import checkout, peer_module

pytestmark = pytest.mark.skipif("VARL_PEERS" not in os.environ, reason="make peers PEERS=FOLDER")
LEVELS = (51, 255)
WANTED = pytest.approx([0.2, 1.0], abs=0.01)  # JPEG moves a grey level by one at most
PROMPTS = ["a sign", "another"]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with serving(ToyScorer("ocr"), ToyScorer("other"), compat_pickle=True) as found:
        yield found


def pixels() -> npt.NDArray[np.uint8]:
    """uint8 [2, 16, 16, 3]."""
    return np.stack([np.full((16, 16, 3), level, np.uint8) for level in LEVELS])


def tensors() -> torch.Tensor:
    """float32 [2, 3, 16, 16] in [0, 1]."""
    return torch.from_numpy(pixels()).permute(0, 3, 1, 2) / 255


def pictures() -> list[Image.Image]:
    return [Image.fromarray(image) for image in pixels()]


@pytest.mark.parametrize("form", ["deqa", "geneval", "unified_reward"])
def test_flow_grpo(rig: Rig, tmp_path: Path, form: str) -> None:
    """Its URLs are constants: the edit that docs/compat.md names is made to a copy of the file."""
    text = (checkout("flow_grpo") / "flow_grpo" / "rewards.py").read_text()
    url = f"{rig.url}/compat/flow_grpo/ocr/{form}"
    edited = "\n".join(
        f'{line.partition("=")[0]}= "{url}"' if line.strip().startswith('url = "http') else line
        for line in text.splitlines()
    )
    (tmp_path / "rewards.py").write_text(edited)
    metas = [{"tag": "colors", "include": [], "prompt": prompt} for prompt in PROMPTS]
    with peer_module("flow_grpo.rewards", {"flow_grpo.rewards": tmp_path / "rewards.py"}) as module:
        if form == "geneval":
            assert module.geneval_score("cpu")(tensors(), PROMPTS, metas, True)[2] == WANTED
        elif form == "deqa":
            assert module.deqa_score_remote("cpu")(tensors(), PROMPTS, metas)[0] == WANTED
        else:
            assert module.unifiedreward_score_remote("cpu")(tensors(), PROMPTS, metas)[0] == WANTED
            assert [each.prompt for each in rig.source.batches[-1][0].samples] == PROMPTS


@pytest.mark.parametrize("workers", ["1", "2"])
def test_deepgen_rl(rig: Rig, workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = checkout("deepgen_rl") / "deepgen_rl" / "reward_evaluator" / "reward_evaluator.py"
    monkeypatch.setenv("OCR_URL", f"{rig.url.removeprefix('http://')}/compat/deepgen_rl/ocr/twice")
    monkeypatch.setenv("OCR_WORKERS", workers)
    with peer_module("deepgen_rl.client", {"deepgen_rl.client": file}) as module:
        found = module.RewardEvaluatorClient().evaluate("ocr", pictures(), PROMPTS)
        with pytest.raises(RuntimeError, match="500"):
            module.RewardEvaluatorClient().evaluate("ocr", pictures(), ["poison"] * 2)
    scores = found["scores"] if isinstance(found, dict) else found
    assert scores == pytest.approx([0.4, 2.0], abs=0.02)


async def test_verl_omni(rig: Rig) -> None:
    file = checkout("verl-omni") / "verl_omni" / "utils" / "reward_score" / "http_scorer_client.py"
    with peer_module("verl_omni.client", {"verl_omni.client": file}) as module:
        image = torch.from_numpy(pixels()[0]).permute(2, 0, 1)
        url = f"{rig.url}/compat/verl_omni/ocr"
        assert (await module.compute_score(image, PROMPTS[0], url))["score"] == pytest.approx(0.2, abs=0.01)
        with pytest.raises(RuntimeError, match="no_target"):
            await module.compute_score(image, "nothing", url)
        await module.compute_score._session.close()


async def test_openrlhf(rig: Rig) -> None:
    file = checkout("OpenRLHF") / "openrlhf" / "utils" / "agent.py"
    with peer_module("openrlhf.utils.agent", {"openrlhf.utils.agent": file}) as module:
        executor = object.__new__(module.SingleTurnAgentExecutor)
        executor.reward_endpoints = [f"{rig.url}/compat/openrlhf/ocr/get_reward"]
        query = f"<|im_start|>user\n{PROMPTS[0]}<|im_end|>\n<|im_start|>assistant\n{base64_of(grey(51))}<|im_end|>"
        (found,) = await executor._fetch_rewards_via_http([query], [PROMPTS[0]], ["two"])
    assert (found["rewards"], found["scores"]) == ([1.0], [1.0])  # ToyScorer: one target word


def test_flow_factory(rig: Rig) -> None:
    file = checkout("Flow-Factory") / "src" / "flow_factory" / "rewards" / "my_reward_remote.py"
    name = "flow_factory.rewards.my_reward_remote"
    with peer_module(name, {name: file}, ["accelerate"]) as module:
        client = module.RemoteRewardClient(f"{rig.url}/compat/flow_factory/ocr")
        assert client.health_check()
        assert client.compute(PROMPTS, image=pictures()) == [0.2, 1.0]
        with pytest.raises(RuntimeError, match="no_target"):
            client.compute(["nothing"], image=pictures()[:1])


def test_unirl(rig: Rig) -> None:
    folder = checkout("UniRL") / "unirl"
    files = {"unirl.reward.remote": folder / "reward" / "remote.py"}
    request = SimpleNamespace(
        is_video=False,
        batch_size=2,
        images=pictures(),
        prompts=PROMPTS,
        metadata=[{"tone": "dark"}, None],
        primitives={},
    )
    with peer_module("unirl.reward.remote", files) as module:
        spec = module.RemoteRewardSpec(base_url=f"{rig.url}/compat/unirl", required_rewards=("ocr", "other"))
        backend = module.RemoteRewardBackend(config=spec, base_device="cpu")
        backend.timeout = PATIENCE  # its base class keeps it
        assert backend.is_available()
        found = backend.compute_rewards(request)
        assert found.rewards == WANTED
        assert found.successes == [True, True]
        request.prompts = ["nothing", PROMPTS[1]]
        assert backend.compute_rewards(request).successes == [False, True]


def test_cosmos_rl(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout("cosmos-rl") / "cosmos_rl"
    names = ("reward.remote_calculator", "utils.network_util", "utils.constant")
    files = {f"cosmos_rl.{name}": folder / f"{name.replace('.', os.sep)}.py" for name in names}
    base = f"{rig.url}/compat/cosmos_rl/api/reward"
    monkeypatch.setenv("REMOTE_REWARD_ENQUEUE_URL", f"{base}/enqueue")
    monkeypatch.setenv("REMOTE_REWARD_FETCH_URL", f"{base}/pull")
    limits = {"clip_min": -20.0, "clip_max": 20.0}
    reward = SimpleNamespace(name="ocr", weight=1.0, score_key="ocr", **limits)
    remote = SimpleNamespace(reward_fns=[reward], reward_clip_min=-20.0, reward_clip_max=20.0, scale=1.0)
    config: Any = SimpleNamespace(
        train=SimpleNamespace(train_policy=SimpleNamespace(remote_reward=remote)),
        validation=SimpleNamespace(remote_reward=remote),
    )
    payload = SimpleNamespace(extra_info={}, completions=tensors(), prompt={"prompt": PROMPTS[0]})
    with peer_module("cosmos_rl.reward.remote_calculator", files) as module:
        calculator = module.RemoteRewardCalculator()
        monkeypatch.setattr(module, "logger", SimpleNamespace(**dict.fromkeys(("debug", "info", "error"), print)))
        calculator.setup(config)
        uuid = calculator.compute_rewards([payload], False, 0)
        end = time.monotonic() + PATIENCE
        while (found := _fetched(calculator, uuid)) is None:
            assert time.monotonic() < end
    assert found == WANTED


def _fetched(calculator: Any, uuid: str) -> list[float] | None:  # noqa: ANN401
    try:
        found: list[float] = calculator.fetch_reward(uuid, False).tolist()
    except KeyError:
        return None
    return found


async def test_slime(rig: Rig) -> None:
    file = checkout("slime") / "slime" / "rollout" / "rm_hub" / "__init__.py"
    chat = [{"role": "user", "content": PROMPTS[0]}]
    with peer_module("slime.rollout.rm_hub", {"slime.rollout.rm_hub": file}) as module:
        args = SimpleNamespace(rm_url=f"{rig.url}/compat/slime/ocr/score")
        for prompt in (PROMPTS[0], chat):
            sample = SimpleNamespace(prompt=prompt, response=f"Here: {base64_of(grey(51))}", label=None)
            assert await module.remote_rm(args, sample) == 0.2
            assert rig.source.batches[-1][0].samples[0].prompt == PROMPTS[0]
        await module._get_shared_session().close()
