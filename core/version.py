"""The version of ract, as pyproject.toml has it (a test compares the two)."""

__version__ = "0.1.0"
