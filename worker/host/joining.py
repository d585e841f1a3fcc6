"""What a node says of itself when it joins, and whom it lets in."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any

import dask
from distributed import Worker

from ract.core import messages as m
from ract.core.security import fingerprint
from ract.core.version import __version__
from ract.worker.files.session import Session
from ract.worker.hardware.offer import Offer


def joined(
    worker: Worker,
    node_id: bytes,
    host: str,
    offer: Offer,
    options: dict[str, Any],
    session: Session,
) -> m.NodeJoined:
    """The message with which a node joins its cluster."""
    return m.NodeJoined(
        node_id,
        worker.address,
        host,
        os.getpid(),
        offer.resources,
        offer.labels,
        session.dir,
        socket.gethostname(),
        bool(options.get("is-head")),
        str(options.get("name") or ""),
    )


def node_json(
    worker: Worker, accepted: m.NodeAccepted, options: dict[str, Any], session: Session
) -> dict[str, Any]:
    """What drivers on this machine find in ``node.json``."""
    return {
        "scheduler_address": worker.scheduler.address,
        "node_id": accepted.node_id.hex(),
        "cluster_id": accepted.cluster_id.hex(),
        "pid": os.getpid(),
        "token_fingerprint": _fingerprint(),
        "is_head": bool(options.get("is-head")),
        "session_dir": session.dir,
        "name": str(options.get("name") or ""),
        "ract_version": __version__,
    }


def refusal(hello: m.Hello) -> m.Refused | None:
    """Why a driver or tool may not take part, if it may not."""
    known = _fingerprint()
    if hello.token_fingerprint and known and hello.token_fingerprint != known:
        return m.Refused("AuthenticationError", "the token is not the one of this cluster")
    mine = platform.python_version_tuple()[:2]
    theirs = tuple(hello.python_version.split(".")[:2]) if hello.python_version else mine
    if theirs != mine or (hello.ract_version and hello.ract_version != __version__):
        return m.Refused(
            "RuntimeError",
            f"version mismatch: the cluster runs ract {__version__} on Python "
            f"{platform.python_version()}, this process ract {hello.ract_version} on Python "
            f"{hello.python_version}",
        )
    return None


def _fingerprint() -> str:
    token = dask.config.get("ract.token", "") or ""
    return fingerprint(token) if token else ""
