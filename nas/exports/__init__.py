"""Subnets as files that can be deployed."""
