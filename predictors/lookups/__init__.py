"""Spaces compiled for a target: a subnet's latency is a gather and a sum."""
