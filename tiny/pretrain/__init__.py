"""Likelihood pretraining of the tiny base: renders its own images, trains the tokenizer, then the policy.

No reward is used here.
"""
