"""Training recipes and the training loop, for parents and candidates alike."""
