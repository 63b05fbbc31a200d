"""The serving service: keeps chat engines warm, one process for each model version, and streams what they answer."""
