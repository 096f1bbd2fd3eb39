"""What the models reach on one GPU, with random weights at their true sizes: ``make bench-gpu``."""
