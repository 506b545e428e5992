"""Structural changes of networks: removal of channels, coupled layers, widths, low-rank factors."""
