"""Numbers on a grid: which grid, how to get on it, how to store and change what is on it."""
