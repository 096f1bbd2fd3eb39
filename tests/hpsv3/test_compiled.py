"""Layers that torch.compile has taken answer as before, whatever the batch and the length."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

from varl.services.hpsv3.model import RewardModel
from varl.services.hpsv3.native import compile_layers
from varl.services.hpsv3.settings import HPSv3Settings

IMAGE, REWARD = 1, 2
VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 2}
TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
MORE = {"num_key_value_heads": 2, "vocab_size": 50, "bos_token_id": None, "eos_token_id": None}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.heavy)])
def test_compiled_layers_answer_as_before(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A test before this one in the process may have imported distutils, of which setuptools would not take the place.
    monkeypatch.setenv("SETUPTOOLS_USE_DISTUTILS", "stdlib")
    torch.manual_seed(0)
    config = Qwen2VLConfig(vision_config=VISION, text_config={**TEXT, **MORE}, image_token_id=IMAGE)
    model = RewardModel(config).eval()
    batches = [(2, 7), (1, 12), (3, 5)]
    images = torch.randint(256, (3, 3, 56, 84), dtype=torch.uint8)
    given = [
        ([*images[:count]], [[5] * words + [IMAGE] * 6 + [7] * row + [REWARD] for row in range(count)])
        for count, words in batches
    ]
    with torch.inference_mode():
        before = [model(*one) for one in given]
        compile_layers(model, backend)
        after = [model(*one) for one in given]
    for plain, compiled in zip(before, after, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)
    assert before[0].std() > 0
    assert all(layer._compiled_call_impl is not None for layer in model.visual.blocks)


def test_the_package_engine_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile"):
        HPSv3Settings.model_validate({"hub": True, "engine": "package", "compile": True})
