"""How a job logs: `LoggingConfig`, for ``ract.init(logging_config=...)``.

The root logger of the driver, and of every executor of the job, gets one handler that writes to
standard error. Each record says which job, process, task and actor wrote it.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from dataclasses import dataclass, field
from typing import Any

from ract.client.process import context, current
from ract.core import ids
from ract.core.session import setting

ENCODINGS = ("TEXT", "JSON")

STANDARD_ATTRS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What the standard library gives a record; everything else in one was given by the program."""

_ALWAYS = ("asctime", "levelname", "message", "filename", "lineno")
_NOT_EXTRA = STANDARD_ATTRS | {"color_message"}


@dataclass
class LoggingConfig:
    """How the driver, tasks and actors of a job log.

    Args:
        encoding: "TEXT", or "JSON" for one object a line.
        log_level: From which level on; a name or a number.
        additional_log_standard_attrs: Attributes of `logging.LogRecord` to be written too, such as
            "name" or "funcName".

    Raises:
        ValueError: another encoding, level or attribute.
    """

    encoding: str = "TEXT"
    log_level: str | int = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(f"encoding={self.encoding!r} is not one of {list(ENCODINGS)}")
        names = logging.getLevelNamesMapping()
        if not isinstance(self.log_level, int) and self.log_level not in names:
            raise ValueError(f"log_level={self.log_level!r} is not one of {list(names)}")
        for name in self.additional_log_standard_attrs:
            if name not in STANDARD_ATTRS:
                raise ValueError(
                    f"additional_log_standard_attrs: {name!r} is no attribute of a log record; "
                    f"there are {sorted(STANDARD_ATTRS)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """As a dict of plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> LoggingConfig:
        """The inverse of `to_dict`."""
        return cls(**plain)

    def apply(self) -> None:
        """Configure the root logger of this process, in place of an earlier configuration."""
        root = logging.getLogger()
        for handler in list(root.handlers):
            if isinstance(handler, _Handler):
                root.removeHandler(handler)
        attrs = tuple(self.additional_log_standard_attrs)
        handler = _Handler(self.log_level)
        handler.setFormatter(_JsonLines(attrs) if self.encoding == "JSON" else _TextLines(attrs))
        root.addHandler(handler)
        root.setLevel(self.log_level)


def chosen(given: Any, job_config: Any) -> LoggingConfig | None:
    """What was given to `init`, else in the job's settings, else by ``LOGGING_CONFIG_ENCODING``.

    Raises:
        TypeError: something else than a `LoggingConfig`. ValueError: an unknown encoding.
    """
    config = given if given is not None else getattr(job_config, "py_logging_config", None)
    encoding = setting("LOGGING_CONFIG_ENCODING")
    if config is None and encoding:
        config = LoggingConfig(encoding)
    if config is not None and not isinstance(config, LoggingConfig):
        raise TypeError(f"logging_config must be a LoggingConfig, not {type(config).__name__}")
    return config


class _Handler(logging.Handler):
    """Writes to what `sys.stderr` is by then: an executor makes it late, a notebook changes it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _Lines(logging.Formatter):
    """Collects what a line says of a record."""

    def __init__(self, attrs: tuple[str, ...]) -> None:
        super().__init__()
        self._attrs = attrs

    def _facts(self, record: logging.LogRecord) -> dict[str, Any]:
        """What was asked for, what the program added, and where the record is from."""
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        facts = {name: getattr(record, name, None) for name in self._attrs if name not in _ALWAYS}
        facts.update((k, v) for k, v in record.__dict__.items() if k not in _NOT_EXTRA)
        facts.update(_whereabouts())
        facts["timestamp_ns"] = int(record.created * 1e9)
        return facts

    def _trouble(self, record: logging.LogRecord) -> str:
        """The traceback and the stack that a record has."""
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        stack = self.formatStack(record.stack_info) if record.stack_info else ""
        return "\n".join(filter(None, (record.exc_text, stack)))


class _JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        facts = self._facts(record)
        line = {name: getattr(record, name) for name in _ALWAYS}
        line["process"] = record.process
        trouble = self._trouble(record)
        if trouble:
            line["exc_text"] = trouble
        for name, value in facts.items():
            line.setdefault(name, value)
        return json.dumps(line, default=str)


class _TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self._facts(record).items())
        place = f"{record.levelname} {record.filename}:{record.lineno}"
        trouble = self._trouble(record)
        line = f"{record.asctime}\t{place} -- {record.message} {facts}"
        return f"{line}\n{trouble}" if trouble else line


def _whereabouts() -> dict[str, str]:
    """Who logs: empty before `init`."""
    runtime = current.runtime
    if runtime is None:
        return {}
    found = {
        "job_id": runtime.job_id.hex(),
        "worker_id": ids.worker_id_bytes(runtime.process).hex(),
        "node_id": runtime.node_id.hex(),
    }
    spec = context.process.actor_spec
    if spec is not None:
        found["actor_id"] = spec.actor_id.hex()
        if spec.name:
            found["actor_name"] = spec.name
    running = context.running()
    if running is not None:
        actor_id = spec.actor_id if spec is not None else b""
        found["task_id"] = ids.task_id_bytes(running.number, runtime.job_id, actor_id).hex()
        found["task_name"] = running.name
        found["task_func_name"] = running.function_name
    return found


def configure(level: str | int, form: str | None) -> None:
    """Have ract's own logger of this process log from a level on, in a format.

    Raises:
        ValueError: no such level.
    """
    name = level.upper() if isinstance(level, str) else level
    logger = logging.getLogger("ract")
    logger.setLevel(name)
    for handler in [each for each in logger.handlers if getattr(each, "of_ract", False)]:
        logger.removeHandler(handler)
    if form is not None:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form))
        handler.of_ract = True  # type: ignore[attr-defined]
        logger.addHandler(handler)
