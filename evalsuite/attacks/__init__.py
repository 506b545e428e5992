"""Adversarial attacks: their specifications, validity checks, and the libraries that implement them."""
