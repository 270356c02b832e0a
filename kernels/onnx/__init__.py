"""ONNX files: taking them in, splitting, one-kernel models, skeletons, and as torch modules."""
