"""The head process of an embedded cluster: scheduler and node daemon on one event loop.

``python -m ract.client.start.head`` reads its configuration from ``$RACT_HEAD`` (JSON), writes one
JSON line to ``ready_fd`` when a driver can connect, and lives as long as the process
``driver_pid``: it watches a pidfd, which nothing inherits by accident, and ends at once when the
driver is gone.

With ``scheduler`` in the configuration it is only a node that joins that scheduler, for a driver on
a machine that has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import signal
import ssl
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from ract.worker.host.zygote_link import start_early

SCHEDULER_PRELOAD = "ract.scheduler.preload"
DASHBOARD_PRELOAD = "ract.dashboard.preload"
DASK_METRICS = "distributed.http.scheduler.prometheus"
WORKER_PRELOAD = "ract.worker.preload"
START_TIMEOUT_S = 60.0


def main() -> None:
    """Run until the driver is gone, or SIGTERM."""
    config = json.loads(os.environ.pop("RACT_HEAD"))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    start_early()
    gc.disable()  # what is imported stays: looking through it again and again takes a tenth longer
    try:
        asyncio.run(_run(config))
    except Exception as error:
        _report(config, {"error": type(error).__name__, "detail": str(error)})
        raise


def _report(config: dict[str, Any], answer: dict[str, Any]) -> None:
    try:
        os.write(config["ready_fd"], json.dumps(answer).encode() + b"\n")
        os.close(config["ready_fd"])
    except OSError:  # the driver is gone, or has its answer
        pass


async def _run(config: dict[str, Any]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    watched = _watch(config.get("driver_pid"), stop)
    with _importing_faster():
        configure(config)
        import distributed  # noqa: F401
    _skip_default_authorities()
    # From the beginning: a node whose cluster has gone would look for it for ever.
    serving = asyncio.ensure_future(_serve(config))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not serving.done():
        serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    if watched is not None:
        os.close(watched)


async def _serve(config: dict[str, Any]) -> None:
    """Be a node, and the scheduler if there is none; until cancelled, or the node is closed."""
    async with contextlib.AsyncExitStack() as stack:
        address = config.get("scheduler")
        scheduler = None
        if not address:
            scheduler = await stack.enter_async_context(_scheduler(config))
            address = scheduler.address
        worker = await stack.enter_async_context(_worker(address, config))
        answer = await _joined(worker)
        answer["scheduler"] = address
        answer["dashboard_url"] = _dashboard_url(scheduler)
        gc.enable()
        gc.freeze()
        _report(config, answer)
        try:
            await worker.finished()
        finally:
            # From here on connections end on purpose: distributed need not report it.
            logging.getLogger("distributed").setLevel(logging.CRITICAL)


def _watch(pid: int | None, stop: asyncio.Event) -> int | None:
    """Set ``stop`` when process ``pid`` ends."""
    if not pid:
        return None
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        stop.set()
        return None
    asyncio.get_running_loop().add_reader(fd, stop.set)
    return fd


@contextlib.contextmanager
def _importing_faster() -> Iterator[None]:
    """Import dask and distributed here: most of the time of a start, and a third less this way.

    Both do without these optional libraries, whose place in a head is small: distributed allocates
    buffers with numpy, dask shows collections in notebooks with jinja2. Dask reads its
    configuration with yaml's parser in Python, though there is one in C.
    """
    import yaml  # type: ignore[import-untyped]

    loader = yaml.SafeLoader
    yaml.SafeLoader = getattr(yaml, "CSafeLoader", loader)
    hidden = [name for name in ("numpy", "jinja2") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        yaml.SafeLoader = loader
        for name in hidden:
            del sys.modules[name]


def _skip_default_authorities() -> None:
    """Spare tornado the certificates of all authorities that this machine trusts: 20 ms.

    It reads them for each stream that a server accepts without being told how to verify, and then
    never looks at them. Distributed tells all its connections what to trust.
    """
    from tornado import iostream

    nobody = functools.cache(lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    iostream._client_ssl_defaults = nobody


def configure(config: dict[str, Any]) -> None:
    """Set Dask's configuration of this process, before distributed is imported."""
    import dask

    from ract.core import dask_settings
    from ract.core.security import load_or_create_token, security_config
    from ract.core.session import root_folder

    values = dask_settings.common()
    values["logging.distributed"] = "warning"
    values["temporary-directory"] = str(root_folder())
    # A node's HTTP server, which distributed starts in any case, has nothing to show.
    values["distributed.worker.http.routes"] = []
    if not config.get("dashboard"):
        values["distributed.scheduler.http.routes"] = []
    values["ract.node"] = config.get("node", {})
    values["ract.system-config"] = config.get("system_config", {})
    values["ract.token"] = ""
    if config.get("token") is not False:
        token = config.get("token") or load_or_create_token()
        values.update(security_config(token))
        values["ract.token"] = token
    dask.config.set(values)


@contextlib.asynccontextmanager
async def _scheduler(config: dict[str, Any]) -> AsyncIterator[Any]:
    import dask
    from distributed import Scheduler

    dashboard = config.get("dashboard")
    # ract's page brings Dask's figures with it, and imports prometheus_client when it is asked.
    routes = dask.config.get("distributed.scheduler.http.routes")
    kept = [route for route in routes if route != DASK_METRICS]
    dask.config.set({"distributed.scheduler.http.routes": kept})
    # Another one may have taken the port meanwhile; `init` tells which one it is.
    warnings.filterwarnings("ignore", message=r"Port \d+ is already in use")
    scheduler = await Scheduler(
        host=config.get("host", "127.0.0.1"),
        port=config.get("port", 0),
        protocol="tls://",
        dashboard=False,  # ract's own pages bring Dask's with them, when somebody looks
        dashboard_address=dashboard or "127.0.0.1:0",
        preload=[SCHEDULER_PRELOAD, *([DASHBOARD_PRELOAD] if dashboard else [])],
    )
    try:
        yield scheduler
    finally:
        await scheduler.close(reason="ract-shutdown")


@contextlib.asynccontextmanager
async def _worker(address: str, config: dict[str, Any]) -> AsyncIterator[Any]:
    from distributed import Worker

    worker = await Worker(
        address,
        host=config.get("host", "127.0.0.1"),
        nthreads=1,
        memory_limit=0,
        dashboard=False,
        http_prefix="",
        preload=[WORKER_PRELOAD],
        name=config.get("node", {}).get("name"),
    )
    try:
        yield worker
    finally:
        await worker.close(reason="ract-shutdown")


async def _joined(worker: Any) -> dict[str, Any]:
    """Wait until the scheduler has accepted this node; returns what its node.json says."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    plugin = worker.plugins.get("ract")
    if plugin is None:
        from ract.worker.host.adapter import RactWorkerPlugin

        why = RactWorkerPlugin.failure or f"{WORKER_PRELOAD} could not be loaded; the log says why"
        raise RuntimeError(f"the node could not start: {why}") from RactWorkerPlugin.failure
    while asyncio.get_running_loop().time() < deadline:
        session_dir = getattr(plugin, "session_dir", None)
        if session_dir:
            with contextlib.suppress(FileNotFoundError):
                return json.loads(Path(session_dir, "node.json").read_text())
        await asyncio.sleep(0.002)
    raise TimeoutError(f"the scheduler did not accept the node within {START_TIMEOUT_S} s")


def _dashboard_url(scheduler: Any) -> str:
    plugin = scheduler.plugins.get("ract") if scheduler is not None else None
    return getattr(plugin, "dashboard_url", "") or ""


if __name__ == "__main__":
    main()
