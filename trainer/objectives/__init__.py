"""The objectives as pure functions on tensors: no network, no files, no state.

Equation numbers are arXiv 2601.02256's or 2601.02204's.
"""
