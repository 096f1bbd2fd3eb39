"""Sealed checkpoints and which of them are kept."""
