"""The native engine: varl's own forward on HPSv3's weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLConfig

from varl.services.hpsv3.engine import EngineUnavailableError, Preference
from varl.services.hpsv3.faults import check_device, device_faults
from varl.services.hpsv3.files import CONFIG, TOKENIZER, Files, locate
from varl.services.hpsv3.model import CheckpointError, RewardModel, load_checkpoint
from varl.services.hpsv3.preprocess import resize, token_count
from varl.services.hpsv3.prompt import PromptError, Prompts, read_wording
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.serving.scoring import ModelInfo, Pixels, SampleError


@dataclass(frozen=True)
class NativeItem:
    """``image`` uint8 [3, H, W] as ``resize`` makes it, ``token_ids`` as ``Prompts`` makes them."""

    image: torch.Tensor
    token_ids: list[int]

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return len(self.token_ids)

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return self.image.nbytes


class NativeEngine:
    """An ``HPSv3Engine`` on a ``RewardModel``."""

    def __init__(self, model: RewardModel, prompts: Prompts, info: ModelInfo, max_prompt_tokens: int) -> None:
        self._model = model.eval()
        self._prompts = prompts
        self._info = info
        self._max_prompt_tokens = max_prompt_tokens

    @property
    def model(self) -> ModelInfo:
        """Engine with its dtype, name and revision of the checkpoint."""
        return self._info

    def refusal(self, prompt: str) -> SampleError | None:
        """As ``Prompts.refusal``."""
        return self._prompts.refusal(prompt, self._max_prompt_tokens)

    def prepare(self, pixels: Pixels, prompt: str) -> NativeItem:
        """Resize and tokenise; raises ValueError for an image that is too long."""
        image = resize(pixels)
        return NativeItem(image, self._prompts.token_ids(prompt, token_count(image)))

    @torch.inference_mode()
    def score(self, items: Sequence[NativeItem]) -> list[Preference]:
        """One forward."""
        with device_faults():
            answers = self._model([item.image for item in items], [item.token_ids for item in items])
            return [Preference(*row) for row in answers.tolist()]


def build_native(settings: HPSv3Settings) -> NativeEngine:
    """Load the checkpoint straight onto the device.

    Raises:
        EngineUnavailableError: a file is absent or is not what it should be, or the device is.

    """
    check_device(settings.device)
    files = locate(settings)
    try:
        tokenizer = Tokenizer.from_file(str(files.base / TOKENIZER))
        prompts = Prompts(tokenizer, read_wording())
        model = _load(files, prompts, settings)
    except (CheckpointError, PromptError, ValueError, RuntimeError, OSError) as error:
        raise EngineUnavailableError(f"{files.name}: {error}") from error
    info = ModelInfo(f"hpsv3-native-{settings.dtype}", files.name, files.revision)
    return NativeEngine(model, prompts, info, settings.max_prompt_tokens)


def _load(files: Files, prompts: Prompts, settings: HPSv3Settings) -> RewardModel:
    config = read_config(files, prompts)
    with torch.device("meta"):  # no memory for numbers that the checkpoint replaces
        model = RewardModel(config)
    model.set_dtype(getattr(torch, settings.dtype))
    model.to_empty(device=settings.device)
    load_checkpoint(model, files.weights)
    if settings.compile:
        compile_layers(model)
    return model


def compile_layers(model: RewardModel, backend: str = "inductor") -> None:
    """Let torch.compile take each layer at its first forward, for batches and sequences of any size.

    All layers of a half are one piece of code, compiled once. The decoder's last layer stays as it is: it answers for
    one position of each row.
    """
    for layer in (*model.visual.blocks, *list(model.model.layers)[:-1]):
        layer.compile(backend=backend, dynamic=True)


def read_config(files: Files, prompts: Prompts) -> Qwen2VLConfig:
    """Qwen2-VL's configuration with as many embeddings as the tokenizer has tokens, as HPSv3's checkpoint has it.

    Raises:
        ValueError: configuration and tokenizer name different image tokens.

    """
    config = Qwen2VLConfig.from_json_file(files.base / CONFIG)
    if config.image_token_id != prompts.image_id:
        raise ValueError(
            f"the image token is {config.image_token_id} in {CONFIG} and {prompts.image_id} in {TOKENIZER}"
        )
    config.text_config.vocab_size = prompts.vocabulary  # type: ignore[union-attr]
    return config
