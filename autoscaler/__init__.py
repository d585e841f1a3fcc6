"""Clusters that grow and shrink: see `ract.autoscaler.sdk`."""
