"""How the committed tiny models are made: rendered words, pretraining, synthetic preferences."""
