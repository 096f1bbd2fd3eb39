"""Held-out prompts, measures and their standard errors: what a set of weights does, whoever trained it."""
