"""Measurements of ract, alone and beside its peers: ``python -m ract.benchmarks.run --help``."""
