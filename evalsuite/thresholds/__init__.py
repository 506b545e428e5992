"""Measurements to thresholds of commensurate performance: a table to curves, a rule on them, and statements."""
