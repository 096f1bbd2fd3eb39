"""Settings of the HPSv3 reward service."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from varl.launch.resources import BundledPath
from varl.services.serving.settings import Seconds, ServingSettings


class HPSv3Settings(ServingSettings):
    """Reward for how much people would prefer an image as the answer to its prompt, by an HPSv3 checkpoint."""

    model_config = SettingsConfigDict(env_prefix="VARL_HPSV3_", cli_prog_name="python -m varl.services.hpsv3")

    engine: Literal["native", "package"] = Field(
        "native",
        description="native: varl's own forward. package: the hpsv3 package as it is, in an environment with its pins.",
    )
    checkpoint: BundledPath | None = Field(None, description="Local HPSv3.safetensors, or the folder that holds it.")
    base: Path | None = Field(
        None,
        description="Folder with Qwen2-VL's config.json and tokenizer.json; default: the checkpoint's folder. "
        "The package engine loads a whole Qwen2-VL from it.",
    )
    hub: CliImplicitFlag[bool] = Field(
        False,
        description="Fetch MizzenAI/HPSv3 (17 GB) and, unless base is set, Qwen2-VL's configuration and tokenizer.",
    )
    revision: str = Field("main", min_length=1, description="Branch, tag or commit of MizzenAI/HPSv3 that hub fetches.")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Numbers of the model; its head is float32 always."
    )
    device: str = Field("cuda", description="Device of the model: cuda, cuda:1, cpu, …")
    compile: CliImplicitFlag[bool] = Field(
        False,
        description="Compile the native engine's layers with torch.compile, which fuses what lies between their matrix "
        "products and takes about a minute at the start. A GPU wants triton for it, a CPU a C++ compiler.",
    )
    max_batch: int = Field(8, ge=1, le=64, description="Images in one forward.")
    max_wait: Seconds = Field(0.0, description="Seconds that a free model waits for a fuller batch.")
    max_prompt_tokens: int = Field(1024, ge=1, le=16384, description="Tokens of a prompt.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.checkpoint is None) is not self.hub:
            raise ValueError("checkpoint or hub: exactly one of them says where the weights come from")
        if self.compile and self.engine != "native":
            raise ValueError("compile is for the native engine")
        return self
