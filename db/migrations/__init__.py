"""Alembic migrations of the `ms_` tables."""
