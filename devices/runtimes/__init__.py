"""What runs models: the role of a runtime, ONNX Runtime and LiteRT."""
