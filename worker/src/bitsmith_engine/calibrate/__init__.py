"""Codes that make the model's outputs, not its weights, near the float model's, from a little text."""
