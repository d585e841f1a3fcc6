"""Calls that any executor of a shape may run."""
