"""What goes between the daemons of two nodes: objects that are pulled, and tunnels of channels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from distributed import Worker

from ract.core.session import seconds
from ract.worker import compat
from ract.worker.hardware.statistics import Totals
from ract.worker.host.segment_files import SegmentFiles
from ract.worker.links import transfer
from ract.worker.links.tunnel import Tunnels
from ract.worker.node import events as ev
from ract.worker.node.machine import NodeMachine

logger = logging.getLogger("ract.worker")


class Transfers:
    """One node's end of transfers.

    Args:
        worker: The host, over whose connections they go.
        machine: The node's; it is asked what is stored.
        files: Where the objects are.
        turn: Takes events for the machine.
        totals: Counts what was transferred.

    Attributes:
        addresses: Of the daemons, by node.
    """

    def __init__(
        self,
        worker: Worker,
        machine: NodeMachine,
        files: SegmentFiles,
        turn: Callable[[Any], None],
        totals: Totals,
    ) -> None:
        self._worker = worker
        self._store = machine.objects.store
        self._files = files
        self._turn = turn
        self._totals = totals
        self._stall_s = seconds("object_transfer_stall_milliseconds", transfer.STALL_S)
        self.addresses: dict[bytes, str] = {}

    def start(self, session_dir: str) -> None:
        """Serve other nodes, and processes that call executors of other nodes."""
        self._tunnels = Tunnels(session_dir, self._connect_node)
        self._tunnels.start()
        compat.add_rpc(self._worker, "ract_pull", self._serve_pull)
        compat.add_rpc(self._worker, "ract_tunnel", self._serve_tunnel)

    def close(self) -> None:
        """Close the tunnels."""
        self._tunnels.close()

    async def pull(self, command: ev.Pull) -> None:
        """Copy an object, or the rest of it, from another node."""
        path, object_id = self._files.path(command.segment), command.object_id
        progress = transfer.Progress(command.arrived, command.edition)
        try:
            await transfer.pull(
                command.address,
                self._connect,
                object_id,
                path,
                command.size,
                progress,
                self._stall_s,
            )
        except Exception as error:
            reason = f"{command.address}: {error or type(error).__name__}"
            logger.info("pull of %s failed: %s", object_id.hex(), reason)
            is_gone = isinstance(error, transfer.PullError) and error.is_gone
            how = progress.arrived, progress.edition
            self._turn(ev.PullFailed(object_id, command.source, reason, is_gone, *how))
        else:
            self._totals.pulls += 1
            self._turn(ev.PullDone(object_id, progress.edition))
        finally:
            self._totals.pulled(command.source, progress.received)

    async def _connect(self, address: str) -> Any:
        return await compat.open_comm(self._worker, address)

    async def _connect_node(self, node_id: bytes) -> Any:
        return await self._connect(self.addresses[node_id])

    async def _serve_pull(
        self, comm: Any, object_id: bytes = b"", arrived: int = 0, edition: int = 0, **_: Any
    ) -> Any:
        stored = self._store.find(object_id)
        if stored is None:
            await comm.write({"status": "missing"})
        else:
            segment, urls = self._store.segments[stored.segment], self._files.urls
            try:
                if segment.is_away and urls is not None:
                    read = partial(urls.read, segment.id)
                    await transfer.serve_away(comm, read, stored, arrived, edition)
                else:
                    path = self._files.path(segment.id)
                    await transfer.serve_pull(comm, path, stored, arrived, edition)
                self._totals.serves += 1
                self._totals.served_bytes += stored.size
            except OSError as error:  # also of distributed and Tornado: the other side hung up
                logger.info("pull of %s was broken off: %s", object_id.hex(), error)
                comm.abort()
        return compat.keep_comm()

    async def _serve_tunnel(self, comm: Any, address: str = "", **_: Any) -> Any:
        await self._tunnels.serve(comm, address)
        return compat.keep_comm()
