"""Saving and restoring the state of one durable actor.

A saved state is one pickle with the user's state, what is remembered of calls (`CallLog`) and a
checksum. Refs and actor handles cannot be part of it: a file does not keep what they stand for.
"""

from __future__ import annotations

import logging
import pickle
import threading
import zlib
from typing import Any

from ract.core import serialization
from ract.core.errors import DurableStateError
from ract.worker.executor.call_log import CallLog
from ract.worker.files.state_files import Place, SupersededError, place_of

logger = logging.getLogger(__name__)

FORMAT = b"ract-state-1\n"
CHECKSUM_BYTES = 4


class Keeper:
    """What is saved of an actor, and when.

    Args:
        spec: The actor's.
        cluster_id: Of the cluster that it lives in.
        incarnation: Of the actor.
        saved_on: The node on which an earlier incarnation has saved, "" if none has.

    Attributes:
        every_call: A state is saved before the answers of the calls that it is the outcome of.
        interval_s: Otherwise so often, if calls have run.
    """

    def __init__(self, spec: Any, cluster_id: bytes, incarnation: int, saved_on: str) -> None:
        self._name = f"{spec.class_name}({spec.actor_id.hex()})"
        self._ids = (cluster_id, spec.actor_id)
        self._path = spec.durable_path
        self._incarnation = incarnation
        self._saved_on = saved_on
        self.every_call = spec.durable == "call"
        self.interval_s: float = spec.durable_interval_s
        self.log = CallLog()
        self._instance: Any = None
        self._place: Place | None = None
        self._lock = threading.Lock()
        self._taken: bytes | None = None  # the newest state, until it is saved

    def begin(self, instance: Any) -> None:
        """The constructor has run: restore what an earlier incarnation saved, or save the first.

        Raises:
            DurableStateError: the state cannot be found, read, restored or saved; says which.
        """
        self._instance = instance
        place = place_of(self._path, *self._ids)
        try:
            data = place.claim(self._incarnation)
        except Exception as error:  # of whatever driver a URL needs
            raise self._error("cannot be kept at", place, error) from error
        self._place = place
        if data is not None:
            self._restore(data)
        elif self._saved_on:
            raise DurableStateError(
                f"the state of {self._name} was saved on node {self._saved_on}, and is not at "
                f"{place} of this node: give durable_path= or RACT_durable_path a folder or URL "
                "that all nodes share"
            )
        self.take()
        self.save()

    def _restore(self, data: bytes) -> None:
        body = memoryview(data)[len(FORMAT) + CHECKSUM_BYTES :]
        checksum = data[len(FORMAT) : len(FORMAT) + CHECKSUM_BYTES]
        if not data.startswith(FORMAT) or zlib.crc32(body).to_bytes(CHECKSUM_BYTES) != checksum:
            raise DurableStateError(f"the saved state of {self._name} at {self._place} is damaged")
        try:
            head, buffers, answers = pickle.loads(body)
            state = serialization.unpack(head, [bytearray(each) for each in buffers])
            self._instance.__ract_restore__(state)
        except Exception as error:  # the user's code
            raise self._error("could not be restored from", self._place, error) from error
        self.log = CallLog(answers)

    def take(self) -> None:
        """Take the state as it is now; `save` saves it.

        Raises:
            DurableStateError: ``__ract_save__`` failed, or what it returned cannot be pickled.
        """
        try:
            packed = serialization.pack(self._instance.__ract_save__())
            body = pickle.dumps((packed.head, packed.copied_buffers(), self.log.copied()), 5)
        except Exception as error:  # the user's code
            raise self._error("could not be taken for", self._place, error) from error
        if packed.refs:
            raise DurableStateError(
                f"__ract_save__ of {self._name} returned refs or actor handles: what they stand "
                "for does not outlive the cluster's interest in it. Save values, or names"
            )
        with self._lock:
            self._taken = FORMAT + zlib.crc32(body).to_bytes(CHECKSUM_BYTES) + body

    def save(self) -> None:
        """Save what was taken last, unless that has been done.

        Raises:
            DurableStateError: it could not be written. SupersededError: this process is over.
        """
        with self._lock:
            taken, self._taken = self._taken, None
            if taken is None or self._place is None:
                return
            try:
                self._place.save(taken)
            except SupersededError:
                raise
            except Exception as error:  # of whatever driver a URL needs
                raise self._error("could not be saved at", self._place, error) from error

    def _error(self, what: str, place: Any, error: BaseException) -> DurableStateError:
        why = f"{type(error).__name__}: {error}"
        return DurableStateError(f"the state of {self._name} {what} {place}: {why}")
