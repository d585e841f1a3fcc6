"""Who this process is, and its one line to its node. Knows no refs and no calls."""
