"""Models that rollout workers and the trainer share.

They comprise the Policy interface, scale schedules, sampling, and the architectures.
"""
