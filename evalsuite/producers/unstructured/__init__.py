"""Unstructured pruning: single weights are set to zero."""
