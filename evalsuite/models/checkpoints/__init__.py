"""Checkpoints: reading files of untrusted origin, detecting the architecture, loading and saving weights."""
