"""One recipe record and one training loop for parents and candidates alike."""
