"""Architectures: registered ones, those of other libraries, and how settings build them."""
