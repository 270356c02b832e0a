"""What predicts: models of kernels and a correction for whole networks, as data."""
