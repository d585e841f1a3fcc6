"""Ids: fixed-size byte strings that nest, and the raw helpers of the hot path.

A job id is 4 bytes. An actor id is 12 unique bytes and the job's id; a task id is 8 unique bytes
and an actor id (for normal tasks 12 bytes 0xff and the job's id); an object id is a task id and a
4-byte little-endian index. What makes them unique is the *task number*: 64 bits, the process number
(28 bits, unique for the cluster's life) above a counter of that process.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import Any, ClassVar, Self

_NIL_ACTOR = b"\xff" * 12
_NUMBER = struct.Struct(">Q")

COUNTER_BITS = 36
"""Of a task number; the bits above are the number of the process that made it."""
_INDEX = struct.Struct("<I")


class BaseID:
    """An id of ``SIZE`` bytes; immutable, hashable, picklable."""

    SIZE: ClassVar[int] = 28
    __slots__ = ("_bytes",)

    _bytes: bytes

    def __init__(self, id: bytes) -> None:
        if not isinstance(id, (bytes, bytearray)):
            raise TypeError(f"a {type(self).__name__} is made from bytes, not {type(id).__name__}")
        if len(id) != self.SIZE:
            raise ValueError(f"a {type(self).__name__} has {self.SIZE} bytes, not {len(id)}")
        self._bytes = bytes(id)

    @classmethod
    def from_binary(cls, id: bytes) -> Self:
        """An id from its bytes."""
        return cls(id)

    @classmethod
    def from_hex(cls, hex_id: str) -> Self:
        """An id from hex digits."""
        return cls(bytes.fromhex(hex_id))

    @classmethod
    def nil(cls) -> Self:
        """The id that names nothing."""
        return cls(b"\xff" * cls.SIZE)

    @classmethod
    def size(cls) -> int:
        """Bytes of the id."""
        return cls.SIZE

    def binary(self) -> bytes:
        """The bytes."""
        return self._bytes

    def hex(self) -> str:
        """The bytes as hex digits."""
        return self._bytes.hex()

    def is_nil(self) -> bool:
        """Whether it names nothing."""
        return self._bytes == b"\xff" * self.SIZE

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._bytes == self._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._bytes.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._bytes,)


class _RandomID(BaseID):
    __slots__ = ()

    @classmethod
    def from_random(cls) -> Self:
        """A random id."""
        return cls(os.urandom(cls.SIZE))


class UniqueID(_RandomID):
    """28 bytes."""

    __slots__ = ()


class NodeID(UniqueID):
    """Names a node."""

    __slots__ = ()


class WorkerID(UniqueID):
    """Names a process."""

    __slots__ = ()


class FunctionID(UniqueID):
    """Names a function."""

    __slots__ = ()


class ActorClassID(UniqueID):
    """Names an actor class."""

    __slots__ = ()


class ClusterID(UniqueID):
    """Names a cluster."""

    __slots__ = ()


class JobID(BaseID):
    """4 bytes: a driver's job."""

    SIZE = 4
    __slots__ = ()

    @classmethod
    def from_int(cls, value: int) -> JobID:
        """The id of job number ``value``."""
        return cls(value.to_bytes(4, "big"))

    def int(self) -> int:
        """The number of the job."""
        return int.from_bytes(self._bytes, "big")


class ActorID(_RandomID):
    """16 bytes: 12 unique, then the job."""

    SIZE = 16
    __slots__ = ()

    @classmethod
    def of(cls, job_id: JobID, parent_task_id: TaskID, parent_task_counter: int) -> ActorID:
        """The id of the ``parent_task_counter``-th actor that a task creates."""
        unique = parent_task_id.binary()[:8] + _INDEX.pack(parent_task_counter)
        return cls(unique + job_id.binary())

    @property
    def job_id(self) -> JobID:
        """The job it belongs to."""
        return JobID(self._bytes[12:])


class TaskID(BaseID):
    """24 bytes: 8 unique, then the actor (or, for normal tasks, no actor and the job)."""

    SIZE = 24
    __slots__ = ()

    def actor_id(self) -> ActorID:
        """The actor whose call it is; its first 12 bytes are 0xff for normal tasks."""
        return ActorID(self._bytes[8:])

    def job_id(self) -> JobID:
        """The job it belongs to."""
        return JobID(self._bytes[20:])

    @classmethod
    def for_driver_task(cls, job_id: JobID) -> TaskID:
        """The task that a driver is."""
        return cls(b"\xff" * 8 + _NIL_ACTOR + job_id.binary())

    @classmethod
    def for_normal_task(cls, job_id: JobID, parent: TaskID, counter: int) -> TaskID:
        """The ``counter``-th task that ``parent`` submits."""
        return cls(_derived(parent, counter) + _NIL_ACTOR + job_id.binary())

    @classmethod
    def for_actor_task(
        cls, job_id: JobID, parent: TaskID, counter: int, actor_id: ActorID
    ) -> TaskID:
        """The ``counter``-th actor call that ``parent`` submits."""
        return cls(_derived(parent, counter) + actor_id.binary())

    @classmethod
    def for_actor_creation_task(cls, actor_id: ActorID) -> TaskID:
        """The task that creates an actor."""
        return cls(b"\xff" * 8 + actor_id.binary())

    @classmethod
    def for_fake_task(cls, job_id: JobID) -> TaskID:
        """A task that is never run."""
        return cls(os.urandom(8) + _NIL_ACTOR + job_id.binary())


def _derived(parent: TaskID, counter: int) -> bytes:
    # The whole parent counts: calls of two actors may share their number.
    key = parent.binary() + _NUMBER.pack(counter)
    return hashlib.blake2b(key, digest_size=8).digest()


class PlacementGroupID(_RandomID):
    """18 bytes: 14 unique, then the job."""

    SIZE = 18
    __slots__ = ()

    @classmethod
    def of(cls, job_id: JobID) -> PlacementGroupID:
        """A new id for a group of a job."""
        return cls(os.urandom(14) + job_id.binary())


# --------------------------------------------------------------------------- raw helpers


def task_id_bytes(number: int, job: bytes, actor: bytes = b"") -> bytes:
    """The 24 bytes of a task's id, from its number and its actor's or job's id."""
    return _NUMBER.pack(number) + (actor or _NIL_ACTOR + job)


def driver_task_id(job: bytes) -> bytes:
    """The 24 bytes of the id of the task that a driver counts as."""
    return b"\xff" * 8 + _NIL_ACTOR + job


def creation_task_id(actor_id: bytes) -> bytes:
    """The 24 bytes of the id of the task that creates an actor."""
    return b"\xff" * 8 + actor_id


def object_id_bytes(task_id: bytes, index: int) -> bytes:
    """The 28 bytes of the id of a task's return ``index``."""
    return task_id + _INDEX.pack(index)


def return_index(object_id: bytes) -> int:
    """Which return of its task an object is."""
    return _INDEX.unpack_from(object_id, 24)[0]


def is_actor_call(object_id: bytes) -> bool:
    """Whether an actor's call makes the object."""
    return object_id[8:20] != _NIL_ACTOR


def process_of(id: bytes) -> int:
    """The number of the process that made the call behind a task's or object's id."""
    return task_number(id) >> COUNTER_BITS


def task_number(id: bytes) -> int:
    """The number in a task's or object's id."""
    return _NUMBER.unpack_from(id)[0]


def actor_id_bytes(number: int, job: bytes) -> bytes:
    """The 16 bytes of the id of the actor created under this task number."""
    return b"\0" * 4 + _NUMBER.pack(number) + job


def worker_id_bytes(process: int) -> bytes:
    """The 28 bytes of a process' id, as the tables of the cluster have it."""
    return b"\0" * 20 + _NUMBER.pack(process)


def process_of_worker(worker_id: bytes) -> int:
    """The process number in what `worker_id_bytes` made."""
    return int.from_bytes(worker_id[-_NUMBER.size :])
