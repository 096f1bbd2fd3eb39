"""Reward-model serving and a GRPO trainer for next-scale text-to-image models."""
