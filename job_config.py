"""Settings of a job."""

from ract.client.job_config import JobConfig

__all__ = ["JobConfig"]
