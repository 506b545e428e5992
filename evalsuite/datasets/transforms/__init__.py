"""Transforms of test images: random noise, common corruptions, official archives and perturbation sequences."""
