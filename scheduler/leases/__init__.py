"""Executors are lent, and fairly."""
