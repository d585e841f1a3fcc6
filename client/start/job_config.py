"""What a job says of itself: `JobConfig`, for ``ract.init(job_config=...)``."""

from __future__ import annotations

from typing import Any


class JobConfig:
    """Settings of a job.

    Args:
        jvm_options, code_search_path: Accepted for compatibility.
        runtime_env: Environment of the job's tasks and actors.
        metadata: Strings by name, for the job's row in the state API.
        ray_namespace: Where names of actors live; default: a namespace of the job's own.
        default_actor_lifetime: "detached" or "non_detached", of actors that do not say.

    Raises:
        ValueError: another lifetime.
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: list[str] | None = None,
        runtime_env: dict[str, Any] | None = None,
        _client_job: bool = False,
        metadata: dict[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        _py_driver_sys_path: list[str] | None = None,
    ) -> None:
        self.jvm_options = list(jvm_options or [])
        self.code_search_path = list(code_search_path or [])
        self.runtime_env = dict(runtime_env or {})
        self.metadata = dict(metadata or {})
        self.ray_namespace = ray_namespace
        self.py_logging_config: Any = None
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_metadata(self, key: str, value: str) -> None:
        """Add an entry to the metadata."""
        self.metadata[key] = value

    def set_runtime_env(self, runtime_env: dict[str, Any] | None, validate: bool = False) -> None:
        """Replace the runtime environment."""
        self.runtime_env = dict(runtime_env or {})

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """Replace the namespace."""
        self.ray_namespace = ray_namespace

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Replace the lifetime of actors that do not say. Raises ValueError."""
        if default_actor_lifetime not in ("detached", "non_detached"):
            raise ValueError(
                "default_actor_lifetime is 'detached' or 'non_detached', not "
                f"{default_actor_lifetime!r}"
            )
        self._default_actor_lifetime = default_actor_lifetime

    def set_py_logging_config(self, logging_config: Any = None) -> None:
        """Replace the logging configuration."""
        self.py_logging_config = logging_config

    @classmethod
    def from_json(cls, job_config_json: dict[str, Any]) -> JobConfig:
        """From a dict with these names. Unknown ones raise TypeError."""
        return cls(**job_config_json)
