"""The node's pure machine: executors, objects, store and memory."""
