"""The search controller: quality tables, score, evolution, supernet training, subnet search, export."""
