"""Pictures of a search by matplotlib: its course, the weights that it found, what mattered, what it cost."""
