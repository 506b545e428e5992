"""Suites to results: what there is to do, who does it, and how nothing is lost."""
