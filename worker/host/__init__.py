"""The adapter onto distributed, and the processes that a node starts."""
