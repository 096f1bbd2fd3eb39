"""The trainer's side of a rollout: jobs, prefetching, published weights."""
