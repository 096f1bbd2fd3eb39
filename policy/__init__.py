"""Models that rollout workers and the trainer share: the Policy interface, scale schedules, sampling, and the architectures."""
