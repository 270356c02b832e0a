"""Kernels: reading model files, splitting them, kernel identity and cost, one-kernel models."""
