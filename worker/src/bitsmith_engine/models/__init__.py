"""Base models: opened lazily by tensor, built empty and filled layer by layer."""
