"""The command ``ract``: look at a cluster from a shell, and end what runs on this machine.

Theory of operation
-------------------
``status`` talks to a node of this machine as a *tool*: a process without a job, which the cluster
forgets when it hangs up. For a cluster that has no node here it joins as a driver would.

``stop`` goes by the files that daemons leave in the root folder: ``node.json``, believed while the
node's lock is held, and ``scheduler-<pid>.json``, believed while a process of that number is not
younger than the file. Only processes that ract itself starts are ended: a Dask worker of somebody's
deployment has a ``node.json`` too, and may be a whole program. Nodes go before schedulers, so that
they can say goodbye.
"""

from __future__ import annotations

import datetime
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click
import psutil

from ract.client.start.node_processes import local_nodes
from ract.client.start.tool import ask_cluster
from ract.commands.metrics import metrics
from ract.commands.reaching import HOW_TO_REACH
from ract.core.resources import amount
from ract.core.session import child_environment, root_folder
from ract.core.version import __version__

STOP_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 5.0
POLL_S = 0.02
DEAD_NODES_SHOWN_MAX = 5

#: Words of a command line that make a process ours, and what people call it.
OURS = {
    "ract.client.start.head": "head",
    "ract.worker.cli": "rworker",
    "rworker": "rworker",
    "ract.scheduler.cli": "rscheduler",
    "rscheduler": "rscheduler",
}


class Commands(click.Group):
    """The commands of this module, and those of `ract.commands`, imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (commands := ELSEWHERE.get(cmd_name)) is not None:
            return commands()[cmd_name]
        return super().get_command(ctx, cmd_name)


def _logs() -> Mapping[str, click.Command]:
    from ract.commands import logs

    return logs.COMMANDS


def _look() -> Mapping[str, click.Command]:
    from ract.commands import look

    return look.COMMANDS


def _memory() -> Mapping[str, click.Command]:
    from ract.commands import memory

    return memory.COMMANDS


def _state() -> Mapping[str, click.Command]:
    from ract.commands import state

    return state.COMMANDS


#: Commands of other modules, which are imported when one of them is used: each costs time.
ELSEWHERE = {
    "explain": _look,
    "get": _state,
    "list": _state,
    "logs": _logs,
    "memory": _memory,
    "stack": _look,
    "summary": _state,
    "timeline": _look,
}


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="ract")
def main() -> None:
    """Look at ract clusters, and end them."""


main.add_command(metrics)


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"ract {__version__}")


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def microbenchmark(arguments: tuple[str, ...]) -> None:
    """Measure this machine's rates: the arguments are those of ract.benchmarks.run."""
    command = [sys.executable, "-P", "-m", "ract.benchmarks.run", *arguments]
    sys.exit(subprocess.run(command, env=child_environment(), check=False).returncode)


@main.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--ray", is_flag=True, help="The program was written for Ray: 'import ray' is ract.")
@click.option("-m", "module", help="Run a module instead of a file, as python -m does.")
@click.argument("program", nargs=-1, type=click.UNPROCESSED)
def run(ray: bool, module: str | None, program: tuple[str, ...]) -> None:
    """Run a Python PROGRAM with its arguments, as python does."""
    if not program and module is None:
        raise click.UsageError("name a program, or a module with -m")
    if ray:
        from ract.compat import ray as stand_in

        stand_in.install()
    if module is not None:
        sys.argv = [module, *program]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    if not os.path.isfile(program[0]):
        raise click.UsageError(f"there is no file {program[0]}")
    sys.argv = list(program)
    sys.path.insert(0, os.path.dirname(os.path.abspath(program[0])))
    runpy.run_path(program[0], run_name="__main__")


# --------------------------------------------------------------------------- status


@main.command()
@click.option("--address", help="tls://host:port; default: $RACT_ADDRESS, else the newest here.")
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
@click.option("-v", "--verbose", is_flag=True, help="Also the use of each node, and alerts.")
def status(address: str | None, as_json: bool, verbose: bool) -> None:
    """Show nodes, resources, demands that wait, and actors."""
    try:
        found = ask_cluster(address, "status")
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException(f"{error}\n{HOW_TO_REACH}") from error
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for line in report(found):
        click.echo(line)
    for line in details(found) if verbose else ():
        click.echo(line)


def report(found: dict[str, Any]) -> Iterator[str]:
    """What ``status`` says in words, line by line.

    Args:
        found: The scheduler's answer to ``status``.
    """
    living = [node for node in found["nodes"] if node["state"] == "ALIVE"]
    dead = [node for node in found["nodes"] if node["state"] != "ALIVE"]
    yield (
        f"cluster {found['cluster_id'][:8]}: {_count(len(living), 'node')}, "
        f"{_count(found['jobs'], 'job')}, {_count(found['objects'], 'shared object')}"
    )
    yield "\nNodes"
    for node in living:
        head = " (head)" if node["is_head_node"] else ""
        yield f"  {node['node_id'][:8]}  {node['node_name']}{head}: {_offers(node)}"
    for node in dead[-DEAD_NODES_SHOWN_MAX:]:
        yield f"  {node['node_id'][:8]}  {node['node_name']}: DEAD, {node['state_message']}"
    if len(dead) > DEAD_NODES_SHOWN_MAX:
        yield f"  and {len(dead) - DEAD_NODES_SHOWN_MAX} more that died before"
    yield "\nIn use"
    for name, use in _visible(found["resources"]):
        yield f"  {name}: {amount(name, use['used'])} of {amount(name, use['total'])}"
    yield "\nWaiting"
    for demand in found["pending_demands"]:
        yield f"  {demand['count']} × {', '.join(demand['names'])}: needs {demand['text']}"
    if not found["pending_demands"]:
        yield "  nothing"
    yield "\nActors"
    states = ", ".join(f"{n} {state}" for state, n in sorted(found["actors"].items()))
    yield f"  {states or 'none'}"


def details(found: dict[str, Any]) -> Iterator[str]:
    """What ``status -v`` says beyond `report`.

    Args:
        found: The scheduler's answer to ``status``.
    """
    names = {node["node_id"]: node["node_name"] for node in found["nodes"]}
    yield "\nUsage by node"
    for node_id, resources in found["usage"].items():
        yield f"  {node_id[:8]}  {names[node_id]}"
        for name, use in _visible(resources):
            yield f"    {name}: {amount(name, use['used'])} of {amount(name, use['total'])}"
    yield "\nDraining"
    for node_id, left in found["draining"].items():
        yield f"  {node_id[:8]}  {names[node_id]}: left: {', '.join(left) or 'nothing'}"
    if not found["draining"]:
        yield "  none"
    yield "\nAlerts, the newest last (ract list cluster-events has all)"
    for alert in found["alerts"]:
        when = datetime.datetime.fromtimestamp(alert["time"] / 1000).isoformat(" ", "seconds")
        yield f"  {when}  {alert['event_type']}: {alert['message']}"
    if not found["alerts"]:
        yield "  none"


def _offers(node: dict[str, Any]) -> str:
    offered = [f"{amount(name, n)} {name}" for name, n in _visible(node["resources_total"])]
    return ", ".join(offered) or "nothing"


def _visible(resources: dict[str, Any]) -> list[tuple[str, Any]]:
    """Without the resources that only pin things to a node."""
    return [(name, n) for name, n in resources.items() if not name.startswith("node:")]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


# --------------------------------------------------------------------------- drain-node

DRAIN_LOOK_S = 0.2


@main.command("drain-node")
@click.option("--address", help="tls://host:port; default: $RACT_ADDRESS, else the newest here.")
@click.option("--node-id", required=True, help="56 hex digits, or the first of them.")
@click.option("--reason", default="ract drain-node", help="What those who ask are told.")
@click.option("--reason-message", default="", help="More of it.")
@click.option(
    "--deadline-remaining-seconds",
    "deadline_s",
    type=click.FloatRange(min=0, min_open=True),
    help="End the node then with whatever is left on it; default: wait as long as it takes.",
)
@click.option("--no-wait", is_flag=True, help="Return when it has begun.")
def drain_node(
    address: str | None,
    node_id: str,
    reason: str,
    reason_message: str,
    deadline_s: float | None,
    no_wait: bool,
) -> None:
    """End a node without loss: nothing new starts there; work is finished or moved, objects too."""
    why = f"{reason}: {reason_message}" if reason_message else reason
    try:
        nodes = ask_cluster(address, "nodes")
        alive = [n["NodeID"] for n in nodes if n["Alive"] and n["NodeID"].startswith(node_id)]
        if len(alive) != 1:
            known = ", ".join(node["NodeID"][:8] for node in nodes if node["Alive"])
            raise click.ClickException(
                f"{len(alive)} living nodes have an id that begins with {node_id!r}; alive: {known}"
            )
        args = {"node_id": alive[0], "reason": why}
        left = ask_cluster(address, "drain_node", **args, deadline_s=deadline_s)["left"]
        shown: list[str] | None = None
        while not no_wait:
            states = {n["NodeID"]: n["Alive"] for n in ask_cluster(address, "nodes")}
            if not states.get(alive[0]):
                click.echo(f"node {alive[0][:8]} has ended")
                return
            if left != shown:
                click.echo(f"draining node {alive[0][:8]}; left: {', '.join(left) or 'nothing'}")
                shown = left
            time.sleep(DRAIN_LOOK_S)  # nobody tells a tool
            left = ask_cluster(address, "drain_left", node_id=alive[0])
        click.echo(f"draining node {alive[0][:8]}; left: {', '.join(left) or 'nothing'}")
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException(f"{error}\n{HOW_TO_REACH}") from error


# --------------------------------------------------------------------------- kill-actor


@main.command("kill-actor")
@click.option("--address", help="tls://host:port; default: $RACT_ADDRESS, else the newest here.")
@click.option("--name", required=True, help="The name that the actor was created with.")
@click.option("--namespace", help="Where the name is; not needed while only one actor has it.")
@click.option("--force", is_flag=True, help="At once, instead of when its calls are done.")
@click.option("--no-restart", is_flag=True, help="With --force: although it has restarts left.")
def kill_actor(
    address: str | None, name: str, namespace: str | None, force: bool, no_restart: bool
) -> None:
    """End a named actor."""
    from ract.client.api import functions
    from ract.client.start.init import init
    from ract.client.start.membership import shutdown

    try:
        init(address or "auto", log_to_driver=False, include_dashboard=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise click.ClickException(f"{error}\n{HOW_TO_REACH}") from error
    try:
        actor = functions.get_actor(name, namespace or _namespace_of(name))
        if force:
            functions.kill(actor, no_restart=no_restart)
            # Once this has ended, the kill has happened.
            functions.wait([actor.__ray_ready__.remote()], timeout=STOP_TIMEOUT_S)
        elif not functions.wait([actor.__ray_terminate__.remote()], timeout=STOP_TIMEOUT_S)[0]:
            raise click.ClickException(f"{actor!r} is still busy; --force ends it at once")
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    finally:
        shutdown()
    click.echo(f"ended {actor!r}")


def _namespace_of(name: str) -> str | None:
    """The one namespace that has the name; None if none has.

    Raises:
        ValueError: several have it.
    """
    from ract.client.api import auto_init

    request = auto_init.runtime().link.request
    named = request("list_named_actors", all_namespaces=True, namespace="")
    found = [each["namespace"] for each in named if each["name"] == name]
    if len(found) > 1:
        raise ValueError(f"several actors are named {name!r}, in the namespaces {sorted(found)}")
    return found[0] if found else None


# --------------------------------------------------------------------------- stop


@main.command()
def stop() -> None:
    """End every node, scheduler and embedded cluster of this user on this machine."""
    nodes = list(_node_processes())
    schedulers = list(_scheduler_processes())
    if not nodes and not schedulers:
        click.echo("nothing to stop")
        return
    survivors = [*_end(nodes), *_end(schedulers)]
    if survivors:
        pids = ", ".join(str(process.pid) for process in survivors)
        raise click.ClickException(f"still running after SIGKILL: {pids}")


Found = tuple[psutil.Process, str]


def _node_processes() -> Iterator[Found]:
    for node in local_nodes():
        process = _process(node["pid"])
        if process is None:
            continue
        kind = _kind(process)
        place = f"node {node['node_id'][:8]} of {node['scheduler_address']}, pid {process.pid}"
        if kind is None:
            click.echo(f"left alone: {place}: it is part of another program", err=True)
        else:
            yield process, f"{kind} ({place})"


def _scheduler_processes() -> Iterator[Found]:
    for path in sorted(root_folder().glob("scheduler-*.json")):
        try:
            notice = json.loads(path.read_text())
            written = path.stat().st_mtime
        except (OSError, ValueError):  # it ends right now
            continue
        process = _process(notice["pid"])
        # A younger process has only inherited the number.
        if process is None or process.create_time() > written or _kind(process) is None:
            path.unlink(missing_ok=True)  # of a scheduler that crashed
            continue
        yield process, f"rscheduler ({notice['address']}, pid {process.pid})"


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _kind(process: psutil.Process) -> str | None:
    """What a process is to ract, by its command line; None if it is not ours."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return None
    # python -P -m ract.worker.cli, or python /somewhere/bin/rworker
    names = (os.path.basename(word) for word in words[:4])
    return next((OURS[name] for name in names if name in OURS), None)


def _end(found: list[Found]) -> list[psutil.Process]:
    """SIGTERM, after a while SIGKILL; returns who is still there."""
    for process, _ in found:
        _signal(process.terminate)
    late = _still_running(found, STOP_TIMEOUT_S)
    for process, _ in late:
        _signal(process.kill)
    left = _still_running(late, KILL_TIMEOUT_S)
    for process, what in found:
        if (process, what) not in late:
            click.echo(f"stopped {what}")
        elif (process, what) not in left:
            click.echo(f"killed {what}: it did not stop within {STOP_TIMEOUT_S:.0f} s")
    return [process for process, _ in left]


def _still_running(found: list[Found], timeout: float) -> list[Found]:
    """Those that have not ended within ``timeout`` seconds; zombies of a busy parent have."""
    deadline = time.monotonic() + timeout
    while found := [item for item in found if _is_running(item[0])]:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    return found


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(send: Any) -> None:
    try:
        send()
    except psutil.NoSuchProcess:  # it went by itself
        pass


if __name__ == "__main__":
    main()
