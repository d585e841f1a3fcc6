"""Running programs that were written for Ray: see `ract.compat.ray`."""
