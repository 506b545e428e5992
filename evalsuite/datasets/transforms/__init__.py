"""Transforms of test images: random noise, common corruptions, official archives, perturbation sequences."""
