"""``ray._common.ray_constants``."""

DEFAULT_MAX_CONCURRENCY_ASYNC = 1000
