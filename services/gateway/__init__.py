"""One URL for several rewards: the HTTP API of services/serving with other services behind it in place of a model."""
