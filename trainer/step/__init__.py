"""One update: a group as tensors, gradients, guards, metrics, averaged weights."""
