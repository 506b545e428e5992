"""Low-rank decomposition."""
