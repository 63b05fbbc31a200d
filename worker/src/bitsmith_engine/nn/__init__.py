"""Layers that compute on codes."""
