"""Answers to questions about the cluster, as functions of its state."""
