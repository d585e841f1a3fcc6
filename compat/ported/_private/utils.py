"""``ray._private.utils``: small functions that tests and programs use."""

from __future__ import annotations

import getpass
import os
import re
import threading
from collections.abc import Mapping
from typing import Any

from ract.compat.ported._common.utils import (
    binary_to_hex,
    decode,
    get_or_create_event_loop,
    hex_to_binary,
    run_background_task,
    try_to_create_directory,
)
from ract.core import accelerators
from ract.worker.hardware import detect

__all__ = [
    "binary_to_hex",
    "decode",
    "ensure_str",
    "estimate_available_memory",
    "get_num_cpus",
    "get_or_create_event_loop",
    "get_ray_doc_version",
    "get_user",
    "get_visible_accelerator_ids",
    "hex_to_binary",
    "is_main_thread",
    "parse_pg_formatted_resources_to_original",
    "run_background_task",
    "set_sigterm_handler",
    "split_address",
    "try_to_create_directory",
    "update_envs",
    "validate_namespace",
]

_OF_BUNDLE = re.compile(r"(.+)_group_(\d+)_([0-9a-zA-Z]+)")
_OF_GROUP = re.compile(r"(.+)_group_([0-9a-zA-Z]+)")


def parse_pg_formatted_resources_to_original(
    pg_formatted_resources: Mapping[str, float],
) -> dict[str, float]:
    """Quantities by resource, of those that name placement groups or their bundles.

    What stands for a group's bundles in general is left out: it is the same once more.
    """
    found: dict[str, float] = {}
    for name, n in pg_formatted_resources.items():
        of_bundle = _OF_BUNDLE.fullmatch(name)
        if of_bundle is not None and of_bundle[1] != "bundle":
            found[of_bundle[1]] = found.get(of_bundle[1], 0) + n
        elif of_bundle is None and not _OF_GROUP.fullmatch(name):
            found[name] = n
    return found


def get_num_cpus(override_docker_cpu_warning: bool = False, truncate: bool = True) -> float:
    """CPUs that this process may use."""
    return detect.num_cpus()


def estimate_available_memory() -> int:
    """Bytes of memory that nobody uses yet."""
    return detect.available_bytes()


def get_visible_accelerator_ids() -> dict[str, list[str] | None]:
    """The ids to which the environment restricts accelerators, by resource; None: it does not."""
    return {
        name: accelerators.visible(vendor, os.environ)
        for name, vendor in accelerators.OF_RESOURCE.items()
    }


def get_user() -> str:
    """The name of the user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def get_ray_doc_version() -> str:
    """The release whose documentation applies."""
    from ract.compat.ray import RAY_VERSION

    return f"releases-{RAY_VERSION}"


def ensure_str(s: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Text, decoded if need be."""
    return s if isinstance(s, str) else s.decode(encoding, errors)


def is_main_thread() -> bool:
    """Whether this is the main thread."""
    return threading.current_thread() is threading.main_thread()


def split_address(address: str) -> tuple[str, str]:
    """What is before ``://`` and what is after. Raises ValueError."""
    scheme, mark, rest = address.partition("://")
    if not mark:
        raise ValueError("Address must contain '://'")
    return scheme, rest


def update_envs(env_vars: Mapping[str, str]) -> None:
    """Set environment variables; ``${NAME}`` in a value stands for another one's."""
    for key, value in env_vars.items():
        os.environ[key] = os.path.expandvars(value)


def validate_namespace(namespace: Any) -> None:
    """Raise TypeError or ValueError if it is no text, or empty."""
    if not isinstance(namespace, str):
        raise TypeError("namespace must be None or a string.")
    if namespace == "":
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')


def set_sigterm_handler(sigterm_handler: Any) -> None:
    """Call a function at SIGTERM."""
    import signal

    signal.signal(signal.SIGTERM, sigterm_handler)
