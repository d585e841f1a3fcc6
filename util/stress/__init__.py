"""Rounds of everything that programs do, in processes whose threads take turns in microseconds."""
