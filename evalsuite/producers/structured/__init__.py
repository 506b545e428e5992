"""Structured pruning: whole filters or channels are removed."""
