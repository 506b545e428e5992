"""Configuration: suites, depths of the battery, manifests, options of a run."""
