"""Hyperspaces, spaces, blocks, encodings, and the layers that networks are made of."""
