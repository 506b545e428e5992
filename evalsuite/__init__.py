"""Robustness beyond accuracy for pruned image classifiers."""
