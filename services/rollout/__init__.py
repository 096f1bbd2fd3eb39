"""The rollout service: takes jobs from Redis, generates and scores groups, publishes trajectories; images over gRPC for who asks."""
