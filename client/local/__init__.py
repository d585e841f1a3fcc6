"""The same interface without a cluster."""
