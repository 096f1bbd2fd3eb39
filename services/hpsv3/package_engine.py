"""The package engine: the hpsv3 package as it is, to hold the native engine against.

It needs an environment with its pins.
Nothing of the package is imported before the engine is built.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from tokenizers import Tokenizer

from varl.services.hpsv3.engine import EngineUnavailableError, Preference
from varl.services.hpsv3.faults import check_device, device_faults
from varl.services.hpsv3.files import HUB_BASE, Files, locate
from varl.services.hpsv3.preprocess import AREA, CELL, target_size
from varl.services.hpsv3.prompt import PromptError, Prompts, read_wording
from varl.services.hpsv3.settings import HPSv3Settings
from varl.services.serving.scoring import ModelInfo, Pixels, SampleError


@dataclass(frozen=True)
class PackageItem:
    """An image as Pillow has it; the package would open a string as a path or fetch it as an address."""

    image: Image.Image
    prompt: str

    @property
    def tokens(self) -> int:
        """About the length of the sequence: most of it is the same for all."""
        return AREA // CELL**2 + len(self.prompt)

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return 3 * self.image.width * self.image.height


class PackageEngine:
    """An ``HPSv3Engine`` on the package's inferencer."""

    def __init__(self, inferencer: Any, info: ModelInfo, max_prompt_tokens: int) -> None:  # noqa: ANN401
        self._inferencer = inferencer
        # A copy: the package changes its tokenizer's padding while it scores, and this one is used from other threads.
        self._prompts = Prompts(
            Tokenizer.from_str(inferencer.processor.tokenizer.backend_tokenizer.to_str()), read_wording()
        )
        self._info = info
        self._max_prompt_tokens = max_prompt_tokens

    @property
    def model(self) -> ModelInfo:
        """Engine with its dtype, name and revision of the checkpoint."""
        return self._info

    def refusal(self, prompt: str) -> SampleError | None:
        """As ``Prompts.refusal``."""
        return self._prompts.refusal(prompt, self._max_prompt_tokens)

    def prepare(self, pixels: Pixels, prompt: str) -> PackageItem:
        """The package resizes and tokenises by itself; raises ValueError for an image that is too long for it."""
        target_size(*pixels.shape[:2])
        return PackageItem(Image.fromarray(pixels), prompt)

    @torch.inference_mode()
    def score(self, items: Sequence[PackageItem]) -> list[Preference]:
        """One forward. By keyword, as the order of the arguments differs between the package's versions."""
        with device_faults():
            answers = self._inferencer.reward(
                image_paths=[item.image for item in items], prompts=[item.prompt for item in items]
            )
            return [Preference(*row) for row in answers.tolist()]


def build_package(settings: HPSv3Settings) -> PackageEngine:
    """Load the package, Qwen2-VL and the checkpoint.

    Raises:
        EngineUnavailableError: the package or a file is absent, or something is not what it should be.

    """
    if settings.device == "cpu" and settings.dtype == "bfloat16":
        raise EngineUnavailableError(
            "the package scores in bfloat16 on CUDA alone: set dtype to float32, or use the native engine"
        )
    check_device(settings.device)
    files = locate(settings)
    try:
        inferencer = _inferencer(files, settings)
        info = ModelInfo(f"hpsv3-package-{settings.dtype}", files.name, files.revision)
        return PackageEngine(inferencer, info, settings.max_prompt_tokens)
    except ImportError as error:
        raise EngineUnavailableError(
            f"the package engine wants the packages of requirements/hpsv3-package.txt: {error}"
        ) from error
    except (PromptError, ValueError, RuntimeError, OSError) as error:
        raise EngineUnavailableError(f"{files.name}: {error}") from error


def _inferencer(files: Files, settings: HPSv3Settings) -> Any:  # noqa: ANN401
    if not torch.cuda.is_available():
        declare_torchvision_operators()
    import hpsv3

    bundled = Path(hpsv3.__file__).parent / "config" / "HPSv3_7B.yaml"
    base = HUB_BASE if settings.hub and settings.base is None else str(files.base)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "HPSv3.yaml"
        config.write_text(
            yaml.safe_dump(package_config(bundled.read_text(encoding="utf-8"), base, settings.dtype)), encoding="utf-8"
        )
        return hpsv3.HPSv3RewardInferencer(
            config_path=str(config), checkpoint_path=str(files.weights), device=settings.device
        )


def package_config(bundled: str, base: str, dtype: str) -> dict[str, Any]:
    """The package's own configuration with Qwen2-VL taken from ``base`` and numbers of ``dtype``."""
    config: dict[str, Any] = yaml.safe_load(bundled)
    return config | {"model_name_or_path": base, "bf16": dtype == "bfloat16", "torch_dtype": dtype}


def declare_torchvision_operators() -> None:
    """Declare what torchvision's compiled part would.

    Built for CUDA, it cannot be loaded beside a PyTorch that is built for the CPU.
    """
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)


_libraries: list[Any] = []  # an operator lives as long as the library that declared it
