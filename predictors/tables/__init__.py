"""Devices that are known from tables of latencies alone."""
