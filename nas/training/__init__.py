"""Supernets and their training."""
