"""What the machine has, and what a node offers of it."""
