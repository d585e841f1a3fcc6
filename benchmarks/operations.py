"""The operations that are measured, written once against the API that ract and Ray share.

This file stands alone, so that it runs where only Ray is installed:

    python operations.py --system ract|ray|dask --fd N [--far]

reads names of operations from stdin, one per line, and writes to the descriptor N one line of JSON
for each: ``{"name", "rate", "unit", "seconds", "count"}``, or ``{"name", "error"}``. Every
operation checks its results. Names are those of Ray's own microbenchmark where it has them. With
``--far`` there are two nodes: the driver at one, and all that it calls at the other.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MEASURE_S = 0.8
"""An operation is repeated for at least so long, after one round to warm up."""

api: Any = None  # the module ract or ray
far = False  # what is called runs on another node than the driver


@dataclass
class Operation:
    """Something to measure.

    Attributes:
        prepare: Called once; returns ``run``, which does the operation ``count`` times.
        count: Things done by one call of ``run``.
        unit: What ``rate`` counts, per second; ``s`` reports seconds per run instead.
        rounds: Fixed number of runs; 0 for as many as fit into `MEASURE_S`.
    """

    prepare: Callable[[], Callable[[], Any]]
    count: float = 1
    unit: str = "calls/s"
    rounds: int = 0


OPERATIONS: dict[str, Operation] = {}


def operation(name: str, count: float = 1, unit: str = "calls/s", rounds: int = 0) -> Any:
    """Register the decorated ``prepare``."""

    def register(prepare: Callable[[], Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
        OPERATIONS[name] = Operation(prepare, count, unit, rounds)
        return prepare

    return register


def measure(name: str) -> dict[str, Any]:
    """Run one operation; returns the line to report."""
    op = OPERATIONS[name]
    run = op.prepare()
    if op.rounds != 1:
        run()  # warm up
    done = 0
    start = time.perf_counter()
    while True:
        run()
        done += 1
        took = time.perf_counter() - start
        if done >= op.rounds and (op.rounds or took >= MEASURE_S):
            break
    rate = took / done if op.unit == "s" else op.count * done / took
    return {"name": name, "rate": rate, "unit": op.unit, "seconds": took, "count": done}


def expect(found: Any, expected: Any) -> None:
    """A measured result that is wrong is worth nothing."""
    if found != expected:
        raise AssertionError(f"{str(found)[:100]} instead of {str(expected)[:100]}")


# --------------------------------------------------------------------------- what is called


def small_value() -> bytes:
    return b"ok"


def small_value_arg(x: Any) -> bytes:
    return b"ok"


def small_value_batch(n: int) -> int:
    name = small_value.__name__  # so that it goes along to a process that never called it
    expect(len(api_here().get([remote(name).remote() for _ in range(n)])), n)
    return n


class Actor:
    def small_value(self) -> bytes:
        return b"ok"

    def small_value_arg(self, x: Any) -> bytes:
        return b"ok"


class AsyncActor:
    async def small_value(self) -> bytes:
        return b"ok"

    async def small_value_arg(self, x: Any) -> bytes:
        await asyncio.sleep(0)
        return b"ok"


class Client:
    """Calls other actors, as a program of its own."""

    def __init__(self, servers: Any) -> None:
        self.servers = servers if isinstance(servers, list) else [servers]

    def batch(self, n: int) -> int:
        refs = [server.small_value.remote() for server in self.servers for _ in range(n)]
        expect(len(api_here().get(refs)), n * len(self.servers))
        return n

    def tasks(self, n: int) -> int:
        return small_value_batch(n)

    def put_small(self, n: int) -> int:
        for _ in range(n):
            api_here().put(0)
        return n

    def put_large(self, megabytes: int) -> int:
        api_here().put(np.zeros(megabytes * 1024 * 1024, dtype=np.uint8))
        return megabytes


def api_here() -> Any:
    """The module under test, also in a process that it started."""
    if isinstance(api, Dask):
        return api
    name = "ract" if "ract" in sys.modules else "ray"
    return importlib.import_module(name)


_remotes: dict[Any, Any] = {}


def remote(name: str, **options: Any) -> Any:
    """The remote function or actor class of that name in this module."""
    key = (name, *sorted(options.items()))
    if key not in _remotes:
        if far:
            options["resources"] = {"far": 0.001}
        target = globals()[name]
        module = api_here()
        _remotes[key] = module.remote(**options)(target) if options else module.remote(target)
    return _remotes[key]


# --------------------------------------------------------------------------- objects


@operation("get small", 1000)
def get_small():
    ref = api.put(0)

    def run():
        for _ in range(1000):
            api.get(ref)

    expect(api.get(ref), 0)
    return run


@operation("put small", 1000)
def put_small():
    def run():
        for _ in range(1000):
            api.put(0)

    return run


@operation("multi client put small", 2 * 1000)
def multi_put_small():
    clients = [remote("Client").remote([]) for _ in range(2)]
    return lambda: expect(api.get([c.put_small.remote(1000) for c in clients]), [1000, 1000])


@operation("put gigabytes", 0.1, "GB/s")
def put_gigabytes():
    data = np.random.default_rng(0).integers(0, 255, 100_000_000, dtype=np.uint8)
    expect(int(api.get(api.put(data))[-1]), int(data[-1]))
    return lambda: api.put(data)


@operation("multi client put gigabytes", 2 * 0.08388608, "GB/s")
def multi_put_gigabytes():
    clients = [remote("Client").remote([]) for _ in range(2)]
    return lambda: expect(api.get([c.put_large.remote(80) for c in clients]), [80, 80])


@operation("task with a 100 MB argument", 1)
def large_argument():
    ref = api.put(np.ones(100_000_000, dtype=np.uint8))
    call = remote("small_value_arg")
    return lambda: expect(api.get(call.remote(ref)), b"ok")


@operation("get object of 10k refs", 1)
def object_of_refs():
    ref = api.put([api.put(1) for _ in range(10_000)])
    return lambda: expect(len(api.get(ref)), 10_000)


@operation("get 10k refs", 1)
def get_10k():
    refs = [api.put(i) for i in range(10_000)]
    return lambda: expect(api.get(refs)[-1], 9_999)


@operation("wait on 1k refs", 1)
def wait_1k():
    call = remote("small_value")

    def run():
        rest = [call.remote() for _ in range(1000)]
        while rest:
            ready, rest = api.wait(rest)
            expect(len(ready), 1)

    return run


@operation("wait on 1k ready refs", 1)
def wait_1k_ready():
    refs = [api.put(i) for i in range(1000)]

    def run():
        rest = refs
        while rest:
            _, rest = api.wait(rest)

    return run


@operation("10k ref arguments to one task", 1)
def many_arguments():
    refs = [api.put(i) for i in range(10_000)]

    def total(*values):
        return sum(values)

    call = api.remote(total)
    return lambda: expect(api.get(call.remote(*refs)), sum(range(10_000)))


@operation("task with 3k returns", 1)
def many_returns():
    def several():
        return list(range(3000))

    call = api.remote(num_returns=3000)(several)
    return lambda: expect(api.get(call.remote())[-1], 2999)


# --------------------------------------------------------------------------- tasks


@operation("tasks sync", 1)
def tasks_sync():
    call = remote("small_value")
    return lambda: expect(api.get(call.remote()), b"ok")


@operation("tasks async", 1000)
def tasks_async():
    call = remote("small_value")
    return lambda: expect(api.get([call.remote() for _ in range(1000)])[-1], b"ok")


@operation("tasks and get batch", 1000)
def tasks_batch():
    call = remote("small_value_batch")
    return lambda: expect(api.get(call.remote(1000)), 1000)


@operation("nested tasks", 2000)
def nested_tasks():
    call = remote("small_value_batch")
    return lambda: expect(api.get([call.remote(1000) for _ in range(2)]), [1000, 1000])


@operation("items of a generator", 1000, "items/s")
def generator_items():
    def several(n):
        for i in range(n):  # noqa: UP028 - Ray cannot take "yield from"
            yield i

    call = api.remote(several)
    return lambda: expect(sum(api.get(ref) for ref in call.remote(1000)), 499_500)


@operation("multi client tasks async", 4000)
def multi_tasks():
    clients = [remote("Client", num_cpus=0).remote([]) for _ in range(4)]
    return lambda: expect(api.get([c.tasks.remote(1000) for c in clients]), [1000] * 4)


@operation("100k tasks", 1, "s", rounds=1)
def tasks_100k():
    call = remote("small_value")
    api.get(call.remote())
    return lambda: expect(len(api.get([call.remote() for _ in range(100_000)])), 100_000)


# --------------------------------------------------------------------------- actors


@operation("actor 1:1 sync", 1)
def actor_sync():
    a = remote("Actor").remote()
    return lambda: expect(api.get(a.small_value.remote()), b"ok")


@operation("actor 1:1 async", 1000)
def actor_async():
    a = remote("Actor").remote()
    return lambda: expect(api.get([a.small_value.remote() for _ in range(1000)])[-1], b"ok")


@operation("actor 1:1 async with a 1 KB argument", 1000)
def actor_argument():
    a = remote("Actor").remote()
    x = b"x" * 1024
    return lambda: expect(api.get([a.small_value_arg.remote(x) for _ in range(1000)])[-1], b"ok")


@operation("actor 1:1 concurrent", 1000)
def actor_concurrent():
    a = remote("Actor", max_concurrency=16).remote()
    return lambda: expect(api.get([a.small_value.remote() for _ in range(1000)])[-1], b"ok")


@operation("actor 1:n async", 4 * 500)
def actor_1_n():
    servers = [remote("Actor", num_cpus=0).remote() for _ in range(4)]
    client = remote("Client", num_cpus=0).remote(servers)
    return lambda: expect(api.get(client.batch.remote(500)), 500)


@operation("actor n:n async", 4 * 500)
def actor_n_n():
    servers = [remote("Actor", num_cpus=0).remote() for _ in range(4)]
    clients = [remote("Client", num_cpus=0).remote(server) for server in servers]
    return lambda: expect(api.get([c.batch.remote(500) for c in clients]), [500] * 4)


@operation("async actor 1:1 sync", 1)
def async_actor_sync():
    a = remote("AsyncActor").remote()
    return lambda: expect(api.get(a.small_value.remote()), b"ok")


@operation("async actor 1:1 async", 1000)
def async_actor_async():
    a = remote("AsyncActor").remote()
    return lambda: expect(api.get([a.small_value.remote() for _ in range(1000)])[-1], b"ok")


@operation("async actor 1:1 async with a 1 KB argument", 1000)
def async_actor_argument():
    a = remote("AsyncActor").remote()
    x = b"x" * 1024
    return lambda: expect(api.get([a.small_value_arg.remote(x) for _ in range(1000)])[-1], b"ok")


@operation("async actor n:n async", 4 * 500)
def async_actor_n_n():
    servers = [remote("AsyncActor", num_cpus=0).remote() for _ in range(4)]
    clients = [remote("Client", num_cpus=0).remote(server) for server in servers]
    return lambda: expect(api.get([c.batch.remote(500) for c in clients]), [500] * 4)


def _create_actors(n: int) -> Callable[[], None]:
    make = remote("Actor", num_cpus=0)

    def run():
        actors = [make.remote() for _ in range(n)]
        expect(api.get([a.small_value.remote() for a in actors]), [b"ok"] * n)

    return run


@operation("20 actors created and called", 1, "s", rounds=2)
def create_20():
    return _create_actors(20)


@operation("100 actors created and called", 1, "s", rounds=1)
def create_100():
    return _create_actors(100)


@operation("placement groups made and removed", 50)
def placement_groups():
    util = importlib.import_module(f"{api.__name__}.util")

    def run():
        groups = [util.placement_group([{"CPU": 0.001}] * 2) for _ in range(50)]
        for group in groups:
            if not group.wait(30):
                raise AssertionError("a placement group was not made")
        for group in groups:
            util.remove_placement_group(group)

    return run


# --------------------------------------------------------------------------- Dask's futures

DASK = {
    "get small",
    "put small",
    "put gigabytes",
    "tasks sync",
    "tasks async",
    "actor 1:1 sync",
    "actor 1:1 async",
}
"""What Dask's futures can do in the same words."""


class Dask:
    """As much of the API as `DASK` needs, on a ``LocalCluster`` with one thread per process."""

    def __init__(self, num_cpus: int) -> None:
        from distributed import Client

        self._client = Client(n_workers=num_cpus, threads_per_worker=1, dashboard_address=None)

    def remote(self, target: Any = None, **options: Any) -> Any:
        return _DaskRemote(self._client, target)

    def put(self, value: Any) -> Any:
        return self._client.scatter(value, hash=False)

    def get(self, what: Any) -> Any:
        if isinstance(what, list):
            return [self.get(each) for each in what] if _of_actor(what) else self._gather(what)
        return what.result()

    def _gather(self, futures: list[Any]) -> Any:
        return self._client.gather(futures)

    def shutdown(self) -> None:
        self._client.shutdown()


def _of_actor(futures: list[Any]) -> bool:
    return bool(futures) and type(futures[0]).__name__ == "ActorFuture"


class _DaskRemote:
    def __init__(self, client: Any, target: Any) -> None:
        self._client, self._target = client, target

    def remote(self, *args: Any) -> Any:
        is_actor = isinstance(self._target, type)
        made = self._client.submit(self._target, *args, actor=is_actor, pure=False)
        return _DaskActor(made.result()) if is_actor else made


class _DaskActor:
    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)
        return type("Method", (), {"remote": staticmethod(method)})


# --------------------------------------------------------------------------- the process


def idle_megabytes() -> float:
    """Memory of all processes of the runtime (proportional set size), without this one."""
    import psutil

    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e6


def start(system: str, num_cpus: int) -> Any:
    """Start an embedded cluster, or one of two nodes; returns what must be kept."""
    global api
    if system == "dask":
        api = Dask(num_cpus)
        return None
    api = importlib.import_module(system)
    if far:
        module = {"ract": "ract.testing", "ray": "ray.cluster_utils"}[system]
        cluster = importlib.import_module(module).Cluster(
            initialize_head=True, head_node_args={"num_cpus": num_cpus}
        )
        store = 2**30
        cluster.add_node(num_cpus=num_cpus, resources={"far": 1000}, object_store_memory=store)
        quiet = {} if system == "ract" else {"log_to_driver": False, "logging_level": "error"}
        api.init(address=cluster.address, **quiet)
        return cluster
    options: dict[str, Any] = {"num_cpus": num_cpus, "include_dashboard": False}
    if system == "ray":
        options.update(log_to_driver=False, logging_level="error")
    api.init(**options)
    return None


def main() -> None:
    """Serve operations by name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--system", choices=["ract", "ray", "dask"], required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--num-cpus", type=int, default=os.cpu_count())
    parser.add_argument("--far", action="store_true")
    given = parser.parse_args()
    global far
    far = given.far
    cluster = start(given.system, given.num_cpus)
    with os.fdopen(given.fd, "w", buffering=1) as answers:
        print(json.dumps({"idle": idle_megabytes()}), file=answers)
        for line in sys.stdin:
            name = line.strip()
            try:
                found = measure(name)
            except Exception as error:
                found = {"name": name, "error": f"{type(error).__name__}: {error}"[:500]}
            print(json.dumps(found), file=answers)
    api.shutdown()
    if cluster is not None:
        cluster.shutdown()


if __name__ == "__main__":
    main()
