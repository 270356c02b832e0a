"""The design of spaces: scores, evolution."""
