"""Where a driver finds its node: one that runs here, or one that is started for it.

Without an address a head process is started for this driver and ends with it. With one, the driver
attaches to the node of that cluster on this machine, found by its ``node.json``; if there is none,
a node without CPUs is started here for as long as the driver lives.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from ract.client.start import node_processes
from ract.client.start.membership import membership
from ract.client.start.node_processes import NodeProcess
from ract.core.seams import seam
from ract.core.session import setting
from ract.core.system_config import as_environment, settings
from ract.worker.hardware.options import check

DASHBOARD_PORT = 8265
STORE_BYTES_MIN = 75 * 2**20

JOIN_TIMEOUT_S = 10.0
"""How long a driver waits for a scheduler to be there."""


def described(
    num_cpus: Any,
    num_gpus: Any,
    resources: Any,
    labels: Any,
    store: Any,
    memory: Any,
    spilling_directory: Any,
    isolated: Any,
) -> dict[str, Any]:
    """The options of a new node, those that are given. Raises ValueError."""
    if store is not None and store < STORE_BYTES_MIN:
        raise ValueError(
            f"object_store_memory={store} is too small: at least {STORE_BYTES_MIN} bytes (75 MiB) "
            "are needed"
        )
    given = {
        "num-cpus": num_cpus,
        "num-gpus": num_gpus,
        "resources": dict(resources) if resources else None,
        "labels": dict(labels) if labels else None,
        "object-store-memory": store,
        "memory": memory,
        "object-spilling-directory": spilling_directory,
        "isolation": isolated,
    }
    return {key: value for key, value in given.items() if value is not None}


def find(
    address: str | None,
    node: dict[str, Any],
    dashboard: tuple[str, int | None] | None,
    token_file: str | None,
    private: dict[str, Any],
) -> dict[str, Any]:
    """What the node.json says of the node to connect to, which is started if need be.

    Args:
        address: As `init` has it.
        node: Options of a new node; see `described`.
        dashboard: Where the dashboard of a new cluster is to listen, if it is wanted.
        token_file: Of the join token.
        private: Further arguments of `init`.

    Raises:
        ValueError: options of a new node, and an address to join.
        ConnectionError, RuntimeError: it could not be joined or started.
    """
    address = resolve(address)
    if address is None:
        system_config = private.get("_system_config")
        settings(system_config, os.environ)  # raises here what it would raise there
        check(node, {**os.environ, **as_environment(system_config)})
        node |= {"is-head": True, "name": private.get("_node_name") or ""}
        return start_embedded(node, dashboard, system_config)
    if node:
        given = ", ".join(sorted(key.replace("-", "_") for key in node))
        raise ValueError(
            f"{given}: cannot be given when joining a cluster; they describe a new node. "
            "Start one with rworker."
        )
    return node_processes.local_node(address) or join_machine(address, token_file)


def start_embedded(
    node: dict[str, Any], dashboard: tuple[str, int | None] | None, system_config: Any
) -> Any:
    """Start the head process of an embedded cluster; returns what its node.json says."""
    served = ""
    if dashboard is not None:
        served = f"{dashboard[0]}:{_dashboard_port(*dashboard)}"
    config = {"node": node, "dashboard": served, "system_config": system_config or {}}
    started = membership.started = NodeProcess(config)
    # While it starts: what this process needs takes as long to import.
    seam("client.api")
    started.wait_ready()
    return started.answer


def _dashboard_port(host: str, wanted: int | None) -> int:
    """The port wanted; by default the usual one if it is free, else 0 for any."""
    if wanted is not None:
        return wanted
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, DASHBOARD_PORT))
        except OSError:
            return 0
    return DASHBOARD_PORT


def resolve(address: str | None) -> str | None:
    """The scheduler's address to join, or None to start an embedded cluster."""
    if address in (None, "auto"):
        given = setting("ADDRESS")
        if given and given != "auto":
            address = given
        elif address == "auto" or given == "auto":
            newest = next(iter(node_processes.local_nodes()), None)
            if newest is None:
                raise ConnectionError("no running cluster was found on this machine")
            return newest["scheduler_address"]
        else:
            return None
    if address == "local":
        return None
    assert address is not None
    from ract.core.security import full_address

    return full_address(address)


def join_machine(address: str, token_file: str | None) -> dict[str, Any]:
    """Start a node without resources of its own, so that this driver has one to talk to."""
    from ract.core.security import check_peer, load_token

    node = {"num-cpus": 0, "num-gpus": 0, "for-driver": True}
    config: dict[str, Any] = {"scheduler": address, "node": node}
    config["token"] = False
    if not address.startswith("tcp://"):
        config["token"] = load_token(token_file)
    check_peer(address, config["token"] or "", JOIN_TIMEOUT_S)
    started = membership.started = NodeProcess(config)
    try:
        started.wait_ready()
    except RuntimeError as error:
        raise ConnectionError(f"could not join the cluster at {address}: {error}") from error
    return started.answer
