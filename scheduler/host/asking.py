"""Questions that only nodes can answer: their logs, their stores, the stacks of their executors.

Theory of operation
-------------------
`NodeAsker.ask` sends a `NodeAsked` and waits for the `NodeAnswered` with its number; a node that is
lost, or does not answer in time, fails the question, never the scheduler. `OPS` are the requests of
processes that need such an answer: coroutines, unlike the machine's
`ract.scheduler.queries.queries`. They change nothing that the machine decides by, so it need not
know of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from ract.core import history, logs
from ract.core.ids import task_number
from ract.core.messages import NodeAnswered, NodeAsked, Reply, Request
from ract.scheduler.books.nodes import Node
from ract.scheduler.cluster import Cluster
from ract.scheduler.people.task_records import Task

logger = logging.getLogger("ract.scheduler")

TIMEOUT_S = 10.0
OBJECTS_MAX = 10_000

READ_LOGS_S = 1.0
"""A node that does not answer in time is busy or gone; a driver that leaves goes without."""

Args = dict[str, Any]


class NodeError(Exception):
    """A node could not answer; the text says why."""


class NodeAsker:
    """Asks nodes.

    Args:
        send: Called as (node_id, message).
    """

    def __init__(self, send: Callable[[bytes, Any], None]) -> None:
        self._send = send
        self._numbers = itertools.count(1)
        self._asked: dict[int, tuple[bytes, asyncio.Future[Any]]] = {}

    async def ask(self, node_id: bytes, op: str, timeout: float = TIMEOUT_S, **args: Any) -> Any:
        """The answer of a node.

        Args:
            node_id: Whom to ask.
            op: What: see `ract.worker.host.answers`.
            timeout: Seconds.
            args: Plain values.

        Raises:
            NodeError: it is gone, did not answer in time, or could not.
        """
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = (node_id, future)
        short = node_id.hex()[:8]
        try:
            self._send(node_id, NodeAsked(number, op, args))
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            message = f"node {short} did not answer {op!r} within {timeout:g} s"
            raise NodeError(message) from None
        finally:
            del self._asked[number]

    def answered(self, message: NodeAnswered) -> None:
        """A node has answered."""
        node_id, future = self._asked.get(message.number, (b"", None))
        if future is None or node_id != message.node_id or future.done():
            return  # too late, or not whom we asked
        if message.error:
            future.set_exception(NodeError(f"node {node_id.hex()[:8]}: {message.error}"))
        else:
            future.set_result(message.value)

    def node_lost(self, node_id: bytes) -> None:
        """A node is gone."""
        for asked, future in list(self._asked.values()):
            if asked == node_id and not future.done():
                future.set_exception(NodeError(f"node {node_id.hex()[:8]} is gone"))


class Host(Protocol):
    """What the requests need: the scheduler's adapter."""

    @property
    def cluster(self) -> Cluster: ...

    async def ask_node(self, node_id: bytes, op: str, timeout: float = ..., **args: Any) -> Any: ...


async def log_files(host: Host, args: Args) -> Any:
    """``node_id`` (hex, or its beginning), ``node_ip``, ``glob``: the log files by node (hex).

    Of each: ``name``, ``size``, ``modified_ms``, ``process``, ``pid``, ``is_err``. Nodes that are
    gone are there if they were on the machine of the scheduler. ``errors``: who did not answer.
    """
    glob = str(args.get("glob") or "*")
    found: dict[str, list[Any]] = {}
    errors: dict[str, str] = {}

    async def look(node: Node) -> None:
        try:
            found[node.node_id.hex()] = await _ask_or_look(host, node, "log_files", glob=glob)
        except NodeError as error:
            errors[node.node_id.hex()] = str(error)

    await asyncio.gather(*(look(node) for node in _nodes(host.cluster, args)))
    return {"files": found, "errors": errors}


async def log(host: Host, args: Args) -> Any:
    """A piece of a log file; ask again with its ``offset`` for what follows.

    Which: ``node_id`` with ``filename``; or ``actor_id``, ``task_id`` (with ``attempt``),
    ``worker_id`` or ``pid`` (of a node, if several have it), with ``suffix``: "out" or "err".
    ``offset``: from there on, or ``tail``: the last so many lines, -1 for all. ``bytes``: at most.

    Returns:
        ``node_id``, ``filename``, ``data`` (bytes: whole lines), ``offset``, ``size``, ``is_over``.
    """
    node, wanted = _locate(host.cluster, args)
    for name in ("offset", "tail", "bytes"):
        if args.get(name) is not None:
            wanted[name] = int(args[name])
    return {"node_id": node.node_id.hex(), **await _ask_or_look(host, node, "log", **wanted)}


async def stacks(host: Host, args: Args) -> Any:
    """``node_id``, ``pid``, ``actor_id``: what the threads of executors do, by node (hex)."""
    found: dict[str, Any] = {}
    errors: dict[str, str] = {}
    pid = int(args["pid"]) if args.get("pid") else None
    nodes = _nodes(host.cluster, args)
    if args.get("actor_id"):
        actor = host.cluster.actors.table.get(_id(args["actor_id"]))
        if actor is None or actor.body is None or not actor.body.pid:
            raise ValueError(f"there is no living actor {args['actor_id']}")
        nodes, pid = [actor.body.node], actor.body.pid

    async def look(node: Node) -> None:
        try:
            found[node.node_id.hex()] = await host.ask_node(node.node_id, "stacks", pid=pid)
        except NodeError as error:
            errors[node.node_id.hex()] = str(error)

    await asyncio.gather(*(look(node) for node in nodes if node.is_alive))
    return {"stacks": found, "errors": errors}


async def memory(host: Host, args: Args) -> Any:
    """Where the objects of the cluster lie: in memory or on disk; by node and object (hex)."""
    found: dict[str, Any] = {}
    errors: dict[str, str] = {}

    async def look(node: Node) -> None:
        try:
            found[node.node_id.hex()] = await host.ask_node(
                node.node_id, "stored", most=int(args.get("limit") or OBJECTS_MAX)
            )
        except NodeError as error:
            errors[node.node_id.hex()] = str(error)

    await asyncio.gather(*(look(node) for node in host.cluster.nodes.alive))
    return {"nodes": found, "errors": errors}


async def object_locations(host: Host, args: Args) -> Any:
    """``ids``: per object (hex) the nodes that store it, its size, and whether it is on disk."""
    if not all(isinstance(id_, bytes) for id_ in args["ids"]):
        raise ValueError("ids are bytes")
    entries = {id_: host.cluster.objects.table.get(id_) for id_ in args["ids"]}
    nodes = {id_: list(entry.nodes) if entry else [] for id_, entry in entries.items()}
    by_node: dict[bytes, list[bytes]] = {}
    for id_, holders in nodes.items():
        for node_id in holders:
            by_node.setdefault(node_id, []).append(id_)
    spilled: set[bytes] = set()

    async def look(node_id: bytes, ids: list[bytes]) -> None:
        try:
            spilled.update(await host.ask_node(node_id, "spilled", ids=ids))
        except NodeError:  # it is about to be gone, and so is what it had on disk
            pass

    await asyncio.gather(*(look(*each) for each in by_node.items()))
    return {
        id_.hex(): {
            "node_ids": [node_id.hex() for node_id in nodes[id_]],
            "object_size": entry.size if entry else 0,
            "did_spill": id_ in spilled,
        }
        for id_, entry in entries.items()
    }


async def stored(host: Host, args: Args) -> Any:
    """``node_id``, ``object_id`` (hex): where that node has that object.

    Returns:
        ``size``, ``is_copy``, ``is_spilled``, ``is_away`` (behind a URL), ``place`` (path or URL).
    """
    node = host.cluster.nodes.get(_id(args["node_id"]))
    if node is None:
        raise ValueError(f"there is no living node {args['node_id']}")
    return await host.ask_node(node.node_id, "stored", object_id=_id(args["object_id"]))


async def collect_garbage(host: Host, args: Args) -> Any:
    """Tell all executors to free what only cycles keep alive; answers how many were told."""

    async def told(node: Node) -> int:
        try:
            return int(await host.ask_node(node.node_id, "collect_garbage"))
        except NodeError:  # it is gone, and its garbage with it
            return 0

    return sum(await asyncio.gather(*map(told, host.cluster.nodes.alive)))


async def read_logs(host: Host, args: Args) -> Any:
    """Have all nodes read what tasks and actors have printed; drivers get it before the answer."""

    async def read(node: Node) -> None:
        with contextlib.suppress(NodeError):  # it is gone; what was not read is in its files
            await host.ask_node(node.node_id, "read_logs", READ_LOGS_S)

    await asyncio.gather(*map(read, host.cluster.nodes.alive))


OPS: dict[str, Callable[[Host, Args], Awaitable[Any]]] = {
    "log_files": log_files,
    "log": log,
    "stacks": stacks,
    "memory": memory,
    "object_locations": object_locations,
    "stored": stored,
    "collect_garbage": collect_garbage,
    "read_logs": read_logs,
}


async def answer(host: Host, request: Request) -> Reply:
    """The one reply to a request whose ``op`` is in `OPS`."""
    value: Any = None
    error = ""
    try:
        value = await OPS[request.op](host, request.args)
    except NodeError as fault:
        value, error = str(fault), "RuntimeError"
    except (ValueError, TypeError) as fault:
        value, error = str(fault), "ValueError"
    except Exception as fault:
        logger.exception("request %r failed", request.op)
        value, error = f"request {request.op!r}: {fault!r}", "RuntimeError"
    return Reply(request.process, request.request, value, error)


async def _ask_or_look(host: Host, node: Node, op: str, **args: Any) -> Any:
    """Ask a living node; of a dead one, look at what it left on this machine."""
    if node.is_alive:
        return await host.ask_node(node.node_id, op, **args)
    session = history.open_session(host.cluster.cluster_id.hex())
    folder = session / "logs" / node.node_id.hex()[:8] if session is not None else None
    if folder is None or not folder.is_dir():
        raise NodeError(f"node {node.short} is gone, and its logs are not on this machine")
    try:
        return await asyncio.to_thread(logs.OPS[op], str(folder), args)
    except (OSError, ValueError) as error:
        raise NodeError(f"node {node.short}, which is gone: {error}") from error


def _nodes(cluster: Cluster, args: Args) -> list[Node]:
    nodes = list(cluster.nodes.table.values())
    if args.get("node_id"):
        nodes = [node for node in nodes if node.node_id.hex().startswith(args["node_id"])]
    if args.get("node_ip"):
        nodes = [node for node in nodes if node.host == args["node_ip"]]
    if not nodes and (args.get("node_id") or args.get("node_ip")):
        raise ValueError(f"there is no node {args.get('node_id') or args.get('node_ip')}")
    return nodes


def _locate(cluster: Cluster, args: Args) -> tuple[Node, Args]:
    """The node that has a log, and what to ask of it.

    Raises:
        ValueError: nothing is named, or what is named has no log.
    """
    wanted: Args = {"suffix": str(args.get("suffix") or "out")}
    if args.get("filename"):
        return _with_file(cluster, args), {**wanted, "filename": str(args["filename"])}
    if args.get("actor_id"):
        node_id, pid = _of_actor(cluster, args["actor_id"])
    elif args.get("task_id"):
        task = _task(cluster, args)
        node_id, pid = task.node_id, task.pid
        wanted["task"] = task_number(task.task_id)
    elif args.get("worker_id"):
        node_id, pid = _of_worker(cluster, args["worker_id"])
    elif args.get("pid"):
        node_id, pid = _of_pid(cluster, args)
    else:
        raise ValueError("name a file, or an actor, a task, a worker or a pid")
    node = cluster.nodes.table.get(node_id)
    if node is None:
        raise ValueError(f"the node {node_id.hex()} that has the log is not known any more")
    return node, {**wanted, "pid": pid}


def _with_file(cluster: Cluster, args: Args) -> Node:
    """The node that has a file; that of the scheduler if none is named."""
    nodes = _nodes(cluster, args)
    if not args.get("node_id") and not args.get("node_ip"):
        nodes = [node for node in nodes if node.is_head] or nodes
    if len(nodes) != 1:
        raise ValueError(f"{len(nodes)} nodes could have {args['filename']}: name one")
    return nodes[0]


def _of_actor(cluster: Cluster, actor_id: str) -> tuple[bytes, int]:
    """The node and pid of an actor's newest process."""
    actor = cluster.actors.table.get(_id(actor_id))
    if actor is None:
        raise ValueError(f"there is no actor {actor_id} (any more)")
    if actor.body is not None and actor.body.pid:
        return actor.body.node.node_id, actor.body.pid
    if actor.cause is not None and actor.cause.pid:
        return actor.cause.node_id, actor.cause.pid
    raise ValueError(f"actor {actor_id} is {actor.state} and has never run")


def _task(cluster: Cluster, args: Args) -> Task:
    """An attempt that has run."""
    task_id, attempt = _id(args["task_id"]), int(args.get("attempt") or 0)
    for task in cluster.tasks.all():
        if task.task_id == task_id and task.attempt == attempt:
            if not task.executor:
                raise ValueError(f"task {args['task_id']} is {task.state}: it has not run yet")
            return task
    raise ValueError(f"there is no task {args['task_id']} (attempt {attempt}; any more)")


def _of_worker(cluster: Cluster, worker_id: str) -> tuple[bytes, int]:
    """The node and pid of a process, by its id in hex digits."""
    number = int(worker_id, 16)
    for process in (*cluster.processes.alive.values(), *cluster.processes.dead):
        if process.number == number:
            return process.node_id, process.pid
    raise ValueError(f"there is no process {worker_id} (any more)")


def _of_pid(cluster: Cluster, args: Args) -> tuple[bytes, int]:
    """The node of a process that is named by its pid; several nodes may have had one."""
    pid = int(args["pid"])
    ids = {node.node_id for node in _nodes(cluster, args)}
    processes = (*cluster.processes.dead, *cluster.processes.alive.values())
    found = {p.node_id: None for p in processes if p.pid == pid and p.node_id in ids}
    if len(found) != 1:
        raise ValueError(f"{len(found)} nodes have or had a process {pid}: name the node")
    return next(iter(found)), pid


def _id(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an id in hex digits") from None
