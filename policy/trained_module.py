"""What policies share whose trained part is one module."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from varl.policy import lora, parameters
from varl.policy.base import ParameterGroups, Trainable


class TrainedModule:
    """The methods of varl.policy.base.TrainablePolicy that need the module alone; a policy inherits them."""

    module: nn.Module

    def select(self, trainable: Trainable) -> None:
        """Let the whole module, or the gains of its normalisation layers alone, require a gradient."""
        parameters.select(self.module, trainable)

    def parameter_groups(self) -> ParameterGroups:
        """The parameters that require a gradient; the gains are those of the normalisation layers."""
        return parameters.parameter_groups(self.module)

    def load_weights(self, path: str) -> None:
        """Replace the module's weights, or its adapters; raises as varl.policy.lora.load_weights does."""
        lora.load_weights(self.module, Path(path))

    def save_weights(self, path: str, dtype: torch.dtype | None = None) -> None:
        """Write what is trained of the module as safetensors, as varl.policy.lora.save_weights does."""
        lora.save_weights(self.module, Path(path), dtype)
