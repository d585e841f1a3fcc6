"""Shared memory, and the files that a node keeps."""
