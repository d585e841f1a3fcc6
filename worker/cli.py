"""The command ``rworker``: a stock Dask worker as a node of a ract cluster."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from typing import Any

import click

from ract.core import dask_settings, security, session
from ract.core.errors import AuthenticationError
from ract.core.labels import check_labels, parse_labels
from ract.worker.hardware import isolation
from ract.worker.hardware.options import check
from ract.worker.host import zygote_link

PRELOAD = "ract.worker.preload"
CONNECT_TIMEOUT_S = 15
JOIN_TIMEOUT_S = 30.0
"""How long a node waits for a scheduler to be there."""


@click.command(name="rworker")
@click.argument("address")
@click.option("--num-cpus", type=float, help="CPUs to offer; default: all this process may use.")
@click.option("--num-gpus", type=float, help="GPUs to offer; default: those that are visible.")
@click.option("--resources", default="{}", help='Custom resources as JSON, e.g. {"Custom": 1}.')
@click.option("--labels", default="", help="Labels of the node: k=v,k=v.")
@click.option(
    "--labels-file", type=click.Path(dir_okay=False), help="More labels: YAML, key: value."
)
@click.option("--memory", type=int, help="Bytes of memory to offer; default: what is available.")
@click.option("--object-store-memory", type=int, help="Bytes of shared memory for objects.")
@click.option(
    "--object-spilling-directory",
    help="Where objects go that have no room in shared memory: folders or URLs, separated by "
    "commas; default: below the session.",
)
@click.option(
    "--enable-resource-isolation",
    is_flag=True,
    help="Keep CPU and memory for the node's own processes, in control groups (version 2).",
)
@click.option("--cgroup-path", help="Where to make them; default: /sys/fs/cgroup.")
@click.option("--system-reserved-cpu", type=float, help="CPUs to keep; default: 5 %, 1 to 3.")
@click.option("--system-reserved-memory", type=int, help="Bytes to keep; default: 10 %.")
@click.option("--name", default="", help="A name for the node.")
@click.option("--token-file", type=click.Path(dir_okay=False), help="The cluster's join token.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--tracing-startup-hook",
    help="module:function that sets OpenTelemetry up in every executor; see the page on metrics.",
)
def main(
    address: str,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: str,
    labels: str,
    labels_file: str | None,
    memory: int | None,
    object_store_memory: int | None,
    object_spilling_directory: str | None,
    enable_resource_isolation: bool,
    cgroup_path: str | None,
    system_reserved_cpu: float | None,
    system_reserved_memory: int | None,
    name: str,
    token_file: str | None,
    host: str,
    tracing_startup_hook: str | None,
) -> None:
    """Join the cluster whose scheduler listens at ADDRESS (tls://host:port)."""
    node: dict[str, Any] = {
        "num-cpus": num_cpus,
        "num-gpus": num_gpus,
        "resources": _resources(resources),
        "labels": {**_labels_of_file(labels_file), **_labels(labels)},
        "memory": memory,
        "object-store-memory": object_store_memory,
        "object-spilling-directory": object_spilling_directory,
        "name": name or None,
    }
    if tracing_startup_hook:
        os.environ["RACT_TRACING_STARTUP_HOOK"] = tracing_startup_hook  # executors inherit it
    try:
        isolated = isolation.asked(
            enable_resource_isolation, cgroup_path, system_reserved_cpu, system_reserved_memory
        )
        if isolated is not None:
            node["isolation"] = isolated
        check(node, os.environ)
        address = security.full_address(address)
    except (TypeError, ValueError, RuntimeError) as error:
        raise click.UsageError(str(error)) from error
    token = ""
    if not address.startswith("tcp://"):
        try:
            token = security.load_token(token_file)
        except security.TokenError as error:
            raise click.ClickException(str(error)) from error
    try:
        security.check_peer(address, token, JOIN_TIMEOUT_S)
    except (AuthenticationError, ConnectionError) as error:
        raise click.ClickException(str(error)) from error
    configure(node, token)
    try:
        asyncio.run(_serve(address, host, name))
    except (OSError, TimeoutError) as error:
        raise click.ClickException(
            f"cannot join the cluster at {address}: {error}. Is the scheduler running there, "
            "and is the token its own (--token-file, RACT_TOKEN)?"
        ) from error


def _resources(text: str) -> dict[str, float]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--resources") from error
    if not isinstance(found, dict):
        raise click.BadParameter("a JSON object is needed", param_hint="--resources")
    return found


def _labels(text: str) -> dict[str, str]:
    try:
        return parse_labels(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--labels") from error


def _labels_of_file(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    import yaml  # type: ignore[import-untyped]

    try:
        with open(path) as file:
            return check_labels(yaml.safe_load(file) or {})
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise click.BadParameter(f"{path}: {error}", param_hint="--labels-file") from error


def configure(node: dict[str, Any], token: str) -> None:
    """Set Dask's configuration for this process."""
    import dask

    dask.config.set(
        {
            **dask_settings.common(),
            "logging.distributed": "warning",
            "temporary-directory": str(session.root_folder()),
            "distributed.comm.timeouts.connect": f"{CONNECT_TIMEOUT_S}s",
            "distributed.worker.http.routes": [],
            "ract.node": {key: value for key, value in node.items() if value is not None},
            "ract.token": token,
            **(security.security_config(token) if token else {}),
        }
    )


async def _serve(address: str, host: str, name: str) -> None:
    zygote_link.start_early()
    from distributed import Worker

    from ract.worker import compat

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    made = Worker(
        address,
        host=host,
        name=name or None,
        nthreads=1,
        memory_limit=0,
        dashboard=False,
        preload=[PRELOAD],
    )
    starting = asyncio.ensure_future(_started(made))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        return
    worker = starting.result()
    try:
        plugin = worker.plugins.get("ract")
        if plugin is None:
            raise click.ClickException(f"{PRELOAD} could not be loaded; see the log above")
        compat.pause_dask(worker)
        click.echo(f"rworker: node {plugin.node_id.hex()[:8]} joined {address}")
        finished = asyncio.ensure_future(worker.finished())
        await asyncio.wait([finished, stopped], return_when=asyncio.FIRST_COMPLETED)
        finished.cancel()
        # From here on connections end on purpose: distributed need not report it.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
    finally:
        stopped.cancel()
        await worker.close(reason="rworker ends")


async def _started(worker: Any) -> Any:
    return await worker


if __name__ == "__main__":
    main()
