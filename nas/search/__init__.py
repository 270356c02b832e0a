"""The search of subnets."""
