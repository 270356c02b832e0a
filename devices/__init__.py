"""Devices: targets, facts about the machine, runtimes, and the gated measuring protocol."""
