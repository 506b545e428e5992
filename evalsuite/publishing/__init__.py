"""What becomes of a finished run for people and for other programs."""
