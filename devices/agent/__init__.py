"""The agent: a machine that takes measuring jobs from a latency service."""
