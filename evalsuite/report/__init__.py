"""The report of a run: one self-contained page (`evalsuite.report.page`), figures, and exported tables."""
