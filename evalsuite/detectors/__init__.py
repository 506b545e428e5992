"""Out-of-distribution detectors: scores of how unlike the training data an image is, larger for more unlike.

Every detector works on arrays: the logits z (N, K) and penultimate features h (N, D) of one forward pass, the
classifier's weights W (K, D) and bias b (K,), and the same of training images. `evalsuite.detectors.table` names
them all; only ODIN (`evalsuite.detectors.odin`) calls the model again.
"""
