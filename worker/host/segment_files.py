"""The files of a node's segments: made, copied to disk or a URL and back, removed.

What takes long runs in threads; the machine is told of its end (`ract.worker.node.events`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from ract.worker.files import shm
from ract.worker.files.session import Session
from ract.worker.files.spill_places import Folders, Urls, chosen, folder_name, is_url, note_places
from ract.worker.hardware.statistics import Totals
from ract.worker.node import events as ev

logger = logging.getLogger("ract.worker")

SPILLS_MAX = 2
"""So many segments are copied to disk at a time."""


class SegmentFiles:
    """The files of one node.

    Args:
        session: The node's directory, and what the paths of its shared memory begin with.
        turn: Takes events for the machine.
        sizes_in: Returns the sizes of the objects in a segment.
        totals: Counts what was spilled and restored.

    Attributes:
        urls: Where objects are spilled to, if that is behind URLs.
    """

    def __init__(
        self,
        session: Session,
        turn: Callable[[Any], None],
        sizes_in: Callable[[int], list[int]],
        totals: Totals,
    ) -> None:
        self._session = session
        self._turn = turn
        self._sizes_in = sizes_in
        self._totals = totals
        self._disk_turns = asyncio.Semaphore(SPILLS_MAX)
        self.urls: Urls | None = None

    async def prepare(
        self, options: dict[str, Any], node_id: bytes, undo: contextlib.ExitStack
    ) -> None:
        """Make ready to spill. Raises OSError if objects cannot go where they are to go."""
        places = chosen(options.get("object-spilling-directory"), os.environ)
        away = [place for place in places if is_url(place)]
        name, own = folder_name(node_id), [self._session.dir]
        self._folders = Folders(own if away else places or own, name)
        undo.callback(self._folders.close)
        if places:
            note_places(self._session.dir, places, name)
        self.urls = Urls(away, name) if away else None
        if self.urls is not None:
            undo.callback(self._remove_all_spilled)
            await asyncio.to_thread(self.urls.probe)

    def path(self, segment: int) -> str:
        """The file of a segment."""
        return f"{self._session.shm_prefix}{segment}"

    def place_of(self, segment: int, is_away: bool) -> str:
        """Where the bytes of a segment are, for people."""
        if is_away and self.urls is not None and self.urls.has(segment):
            return self.urls.where(segment)
        return os.path.realpath(self.path(segment))

    def create(self, command: ev.CreateSegment) -> str:
        """Make a segment's file, in any thread; returns why it could not be made, or ""."""
        path = self.path(command.segment)
        try:
            if command.on_disk:
                self._folders.create(path, command.segment, command.size)
            else:
                shm.create(path, command.size)
        except OSError as error:
            where = "on disk" if command.on_disk else "of shared memory"
            return f"{command.size} bytes {where}: {error}"
        return ""

    def remove(
        self, command: ev.RemoveSegment | ev.DropSegment
    ) -> Coroutine[Any, Any, None] | None:
        """Remove a segment's file; returns what else there is to do, if there is."""
        shm.remove(self.path(command.segment))
        if isinstance(command, ev.RemoveSegment) and self.urls is not None:
            return self._remove_spilled(self.urls, command.segment)
        return None

    async def spill(self, segment: int) -> None:
        """Copy a segment to disk, or to where it is spilled to."""
        async with self._disk_turns:
            spill = self._folders.spill if self.urls is None else self.urls.upload
            sizes = self._sizes_in(segment)
            began = time.perf_counter()
            try:
                await asyncio.to_thread(spill, self.path(segment), segment)
            except OSError as error:
                self._turn(ev.SpillFailed(segment, str(error)))
            else:
                self._totals.spilled(sizes, time.perf_counter() - began)
                self._turn(ev.SpillDone(segment))

    async def restore(self, command: ev.Restore) -> None:
        """Copy a segment back from behind its URL."""
        segment, size, urls = command.segment, command.size, self.urls
        path = self.path(segment)
        assert urls is not None
        async with self._disk_turns:
            began = time.perf_counter()
            try:
                if command.on_disk:
                    write = partial(urls.fill, segment=segment, size=size)
                    await asyncio.to_thread(self._folders.fill, path, segment, size, write)
                else:
                    await asyncio.to_thread(urls.restore, path, segment, size)
            except OSError as error:
                self._turn(ev.RestoreFailed(segment, str(error)))
            else:
                self._totals.restored(self._sizes_in(segment), time.perf_counter() - began)
                self._turn(ev.RestoreDone(segment))

    async def _remove_spilled(self, urls: Urls, segment: int) -> None:
        try:
            if urls.has(segment):
                await asyncio.to_thread(urls.remove, segment)
        except Exception as error:  # of whatever driver it is; it is tried again at the end
            logger.warning("segment %d could not be removed: %s", segment, error)

    def _remove_all_spilled(self) -> None:
        assert self.urls is not None
        try:
            self.urls.close()
        except OSError as error:
            logger.warning("%s", error)
