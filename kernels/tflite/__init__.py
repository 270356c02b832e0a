"""TFLite files: taking them in, splitting, one-kernel models and skeletons."""
