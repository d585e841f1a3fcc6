"""``ray._common.utils``: small functions that tests and programs use."""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import string
import tempfile
from collections.abc import Coroutine
from typing import Any

from ract.core.session import root_folder

__all__ = [
    "RESOURCE_CONSTRAINT_PREFIX",
    "binary_to_hex",
    "decode",
    "env_bool",
    "env_float",
    "env_integer",
    "get_default_ray_temp_dir",
    "get_default_system_temp_dir",
    "get_or_create_event_loop",
    "get_random_alphanumeric_string",
    "hex_to_binary",
    "import_attr",
    "load_class",
    "run_background_task",
    "try_to_create_directory",
]

RESOURCE_CONSTRAINT_PREFIX = "accelerator_type:"
_running: set[asyncio.Task[Any]] = set()


def hex_to_binary(hex_identifier: str) -> bytes:
    """Bytes of hex digits."""
    return bytes.fromhex(hex_identifier)


def binary_to_hex(identifier: bytes) -> str:
    """Hex digits of bytes."""
    return bytes(identifier).hex()


def decode(byte_str: Any, allow_none: bool = False, encode_type: str = "utf-8") -> str:
    """Text of bytes. Raises ValueError if it is neither."""
    if byte_str is None and allow_none:
        return ""
    if not isinstance(byte_str, bytes):
        raise ValueError(f"The argument {byte_str!r} must be a bytes object.")
    return byte_str.decode(encode_type)


def env_integer(key: str, default: Any) -> Any:
    """An environment variable as an integer; 0 and 1 for "false" and "true"."""
    value = os.environ.get(key)
    if value is None:
        return default
    words = {"true": 1, "false": 0}
    return words[value.lower()] if value.lower() in words else int(value)


def env_float(key: str, default: Any) -> Any:
    """An environment variable as a float."""
    return float(os.environ[key]) if key in os.environ else default


def env_bool(key: str, default: Any) -> Any:
    """Whether an environment variable says "true" or "1"."""
    return os.environ[key].lower() in ("true", "1") if key in os.environ else default


def get_or_create_event_loop() -> asyncio.AbstractEventLoop:
    """The event loop that runs in this thread, or this thread's own."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    try:
        return asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop


def run_background_task(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run a coroutine as a task that is kept until it is done."""
    task = get_or_create_event_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


def get_random_alphanumeric_string(length: int) -> str:
    """Random lower-case letters and digits."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=length))


def import_attr(full_path: str, *, reload_module: bool = False) -> Any:
    """What ``module.name`` or ``module:name`` names."""
    module, _, name = full_path.replace(":", ".").rpartition(".")
    found = importlib.import_module(module)
    return getattr(importlib.reload(found) if reload_module else found, name)


def load_class(path: str) -> Any:
    """The class at ``module.Class``."""
    return import_attr(path)


def get_default_system_temp_dir() -> str:
    """The folder for temporary files."""
    return os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()


def get_default_ray_temp_dir() -> str:
    """The folder of all session directories of this user."""
    return str(root_folder())


def try_to_create_directory(directory_path: str) -> None:
    """Make a folder and those above it, if there are none."""
    os.makedirs(os.path.expanduser(directory_path), exist_ok=True)
