"""Reward-model serving and a GRPO trainer for next-scale text-to-image models."""

from varl.launch.threads import wait_without_spinning

wait_without_spinning()  # here, because this runs before anything else of varl, and so before PyTorch, in any program
