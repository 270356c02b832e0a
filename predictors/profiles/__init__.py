"""From measurements to a predictor, and whether it still holds."""
