"""Predictors in the database: versions, files for other machines, pictures."""
