"""From kernels to milliseconds: profiling, predictors, latency tables, evaluation."""
