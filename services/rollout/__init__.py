"""The rollout service: takes jobs from Redis, generates and scores groups, and publishes trajectories.

It also serves images over gRPC on request.
"""
