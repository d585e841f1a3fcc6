"""Which actors live, restart and die."""
