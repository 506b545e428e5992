"""Results of a run: measurements, comparisons with the parent, thresholds."""
