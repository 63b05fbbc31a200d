"""Scores on the validation file, on the same data with the same settings for every model that is compared."""
