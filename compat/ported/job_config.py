"""Settings of a job."""

from ract.client.start.job_config import JobConfig

__all__ = ["JobConfig"]
