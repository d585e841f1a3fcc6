"""What the commands share: options, errors, and how rows are printed."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from ract.commands.reaching import HOW_TO_REACH
from ract.util.state.exception import RayStateApiException, ServerUnavailable

FORMATS = ("default", "json", "yaml", "table")

Command = Callable[..., Any]


def address_option(command: Command) -> Command:
    """``--address``."""
    return click.option(
        "--address", help="tls://host:port; default: $RACT_ADDRESS, else the newest here."
    )(command)


def timeout_option(command: Command) -> Command:
    """``--timeout``."""
    return click.option(
        "--timeout", default=30, show_default=True, help="Seconds to wait for an answer."
    )(command)


def session_option(command: Command) -> Command:
    """``--session``."""
    return click.option(
        "--session",
        help="Look at the history of a cluster on this machine instead: 'last', 'current' or the "
        "beginning of a name (ract list sessions).",
    )(command)


def format_option(default: str = "default") -> Callable[[Command], Command]:
    """``--format``."""
    return click.option(
        "--format", "form", type=click.Choice(FORMATS), default=default, show_default=True
    )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Errors that people can do something about, in one line and with exit code 1."""
    try:
        yield
    except ServerUnavailable as error:
        raise click.ClickException(f"{error}\n{HOW_TO_REACH}") from error
    except (RayStateApiException, ValueError, OSError, LookupError) as error:
        raise click.ClickException(str(error)) from error
    except RuntimeError as error:
        raise click.ClickException(f"{error}\n{HOW_TO_REACH}") from error


def warn(text: str) -> None:
    """Say something beside the output proper."""
    click.secho(text, fg="yellow", err=True)


def as_yaml(value: Any) -> str:
    """A row, or several, in YAML."""
    import yaml  # type: ignore[import-untyped]

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, explicit_start=True)


def as_json(value: Any) -> str:
    """The same in JSON."""
    return json.dumps(value, indent=4, default=str)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> Iterator[str]:
    """Lines of a table with numbered rows; columns that are empty throughout stay."""
    cells = [[name.upper() for name in columns]]
    cells += [[cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    margin = len(str(max(0, len(rows) - 1)))
    for number, line in enumerate(cells, -1):
        head = str(number) if number >= 0 else ""
        body = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield f"{head:>{margin}}  {body}".rstrip()


def cell(value: Any) -> str:
    """A value as a cell of a table."""
    if value is None:
        return ""
    if isinstance(value, dict):
        return " ".join(f"{key}: {cell(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))
    return str(value).replace("\n", "\\n")


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row with times as people write them."""
    return {key: _time(key, value) for key, value in row.items()}


def _time(key: str, value: Any) -> Any:
    if key == "events" and isinstance(value, list):
        return [readable(event) for event in value]
    is_time = key.endswith("_ms") or key in ("time", "start_time", "end_time")
    if not is_time or not isinstance(value, int) or value <= 0:
        return value
    at = datetime.datetime.fromtimestamp(value / 1000)
    return at.isoformat(sep=" ", timespec="milliseconds")


def out(lines: Iterator[str] | Sequence[str]) -> None:
    """Print lines; a reader that has seen enough (``| head``) ends the program quietly."""
    try:
        for line in lines:
            click.echo(line)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
