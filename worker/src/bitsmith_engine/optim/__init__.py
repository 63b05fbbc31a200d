"""How codes and scales change: pure rules, and the optimizer that holds their state."""
