"""``ract logs``: which log files there are, and what is in them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import click

from ract.commands.common import (
    Command,
    address_option,
    explained,
    session_option,
    timeout_option,
)
from ract.util.memory_report import size_text
from ract.util.state.logs import get_log, log_files

TAIL_LINES = 1000


class _Logs(click.Group):
    """What is no command is a pattern for files."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "cluster", self.commands["cluster"], args

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = ["cluster", *args]
        return super().parse_args(ctx, args)


@click.group("logs", cls=_Logs)
def logs() -> None:
    """Show log files: all that match a GLOB, or those of an actor, a task or a process.

    A pattern that only one file matches shows that file; otherwise the files are listed.
    """


def _reading(command: Command) -> Command:
    """Options of all that show a file."""
    options: list[Callable[[Command], Command]] = [
        click.option("-f", "--follow", is_flag=True, help="Go on with what is added."),
        click.option(
            "--tail", default=TAIL_LINES, show_default=True, help="The last lines; -1 for all."
        ),
        click.option("-id", "--node-id", help="The node: its id, or the first digits."),
        click.option("-ip", "--node-ip", help="The node by its address."),
        click.option("--encoding", default="utf-8", show_default=True),
        click.option("--encoding-errors", default="replace", show_default=True),
        timeout_option,
        address_option,
        session_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


_err = click.option("--err", is_flag=True, help="Standard error instead of standard output.")


@logs.command("cluster")
@click.argument("glob", required=False)
@_reading
def cluster(glob: str | None, node_id: str | None, node_ip: str | None, **how: Any) -> None:
    """Files that match GLOB, by node; all if there is none."""
    with explained():
        found = log_files(
            how["address"], node_id, node_ip, glob, how["timeout"], session=how["session"]
        )
    count = sum(map(len, found.values()))
    if not count:
        what = f"match {glob!r}" if glob else "are there"
        raise click.ClickException(f"no log files {what}; ract logs lists them all")
    if count == 1 and glob:
        node, (file,) = next((node, files) for node, files in found.items() if files)
        _show(how, node_id=node, filename=file["name"])
        return
    for node, files in found.items():
        if files:
            click.echo(f"Node {node[:8]}: {len(files)} files")
        for file in files:
            click.echo(f"  {file['name']}  {size_text(file['size'])}")
    if glob:
        click.echo(f"{count} files match {glob!r}: name one to see it", err=True)


@logs.command("actor")
@click.option("-a", "--id", "--actor-id", "actor_id", help="Its id (ract list actors).")
@click.option("-pid", "--pid", type=int, help="The pid of its process.")
@_err
@_reading
def actor(actor_id: str | None, pid: int | None, err: bool, **how: Any) -> None:
    """What an actor wrote."""
    if (actor_id is None) == (pid is None):
        raise click.UsageError("name the actor by --id or by --pid")
    _show(how, err, actor_id=actor_id, pid=pid)


@logs.command("task")
@click.option("--id", "--task-id", "task_id", required=True, help="Its id (ract list tasks).")
@click.option("-a", "--attempt-number", default=0, show_default=True)
@_err
@_reading
def task(task_id: str, attempt_number: int, err: bool, **how: Any) -> None:
    """What a task wrote, and nothing else of its process."""
    _show(how, err, task_id=task_id, attempt_number=attempt_number)


@logs.command("worker")
@click.option("-pid", "--pid", type=int, help="Its pid.")
@click.option("--id", "--worker-id", "worker_id", help="Its id (ract list workers).")
@_err
@_reading
def worker(pid: int | None, worker_id: str | None, err: bool, **how: Any) -> None:
    """What a process wrote, all tasks that it ran."""
    if (pid is None) == (worker_id is None):
        raise click.UsageError("name the process by --pid or by --id")
    _show(how, err, pid=pid, worker_id=worker_id)


@logs.command("job")
@click.option("--id", "job_id", required=True, help="Of a submitted job, or a job of a driver.")
@_reading
def job(job_id: str, **how: Any) -> None:
    """What a submitted job wrote; of other jobs, where its executors' logs are."""
    from ract.util.state import get_job

    with explained():
        found = get_job(job_id, how["address"], how["timeout"], session=how["session"])
    if found is None:
        _show(how, submission_id=job_id)
        return
    raise click.ClickException(
        f"a driver's output goes where it was started (pid {found.driver_info['pid']} on "
        f"{found.driver_info['node_ip_address']}); its tasks' and actors' is in the logs of their "
        f"processes: ract list tasks --filter job_id={job_id}, ract logs task --id ..."
    )


def _show(how: dict[str, Any], err: bool = False, **what: Any) -> None:
    pieces = get_log(
        how["address"],
        what.pop("node_id", None) or how.get("node_id"),
        how.get("node_ip"),
        follow=how["follow"],
        tail=how["tail"],
        timeout=how["timeout"],
        suffix="err" if err else "out",
        encoding=how["encoding"],
        errors=how["encoding_errors"],
        session=how["session"],
        **what,
    )
    with explained():
        try:
            for text in pieces:
                sys.stdout.write(text)
                sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough
            sys.stderr.close()
        except KeyboardInterrupt:
            if not how["follow"]:
                raise


COMMANDS = {"logs": logs}
