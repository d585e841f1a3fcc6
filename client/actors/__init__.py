"""Calls in order to one process that may move, restart and die."""
