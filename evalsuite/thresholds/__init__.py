"""Thresholds of commensurate performance: from a table of measurements to curves, and from these to thresholds."""
