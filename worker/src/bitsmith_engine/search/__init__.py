"""How many bits each unit gets: what two bits would cost it, then the best choice within a budget."""
