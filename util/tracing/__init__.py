"""Functions to be named as a tracing hook: see ``docs/metrics.md``, "Tracing"."""
