"""What executors and callers tell for people. Nothing is decided from it."""
