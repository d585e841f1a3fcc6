"""``ray._common.network_utils``: addresses and ports."""

from __future__ import annotations

import socket

__all__ = [
    "build_address",
    "find_free_port",
    "get_all_interfaces_ip",
    "get_localhost_ip",
    "is_ipv6",
    "is_localhost",
    "parse_address",
]


def build_address(host: str, port: int | str) -> str:
    """``host:port``, with brackets if the host is an IPv6 address."""
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"


def parse_address(address: str) -> tuple[str, str] | None:
    """Host and port, or None if there is no port."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        return None
    return host.strip("[]"), port


def is_ipv6(host: str) -> bool:
    """Whether it is an IPv6 address."""
    return ":" in host


def is_localhost(host: str) -> bool:
    """Whether it names this machine to itself."""
    return host in ("localhost", "::1") or host.startswith("127.")


def get_localhost_ip() -> str:
    """The address of this machine to itself."""
    return "127.0.0.1"


def get_all_interfaces_ip() -> str:
    """The address that stands for all of this machine."""
    return "0.0.0.0"


def find_free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    """A TCP port of this machine that nobody listens at now."""
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
