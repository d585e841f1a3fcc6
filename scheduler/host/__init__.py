"""The adapter onto distributed."""
