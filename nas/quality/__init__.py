"""How good the stages of spaces are: quality tables and proxies."""
