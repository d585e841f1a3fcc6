"""What outlives the process of the scheduler."""
