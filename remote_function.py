"""Remote functions."""

from ract.client.remote_function import RemoteFunction

__all__ = ["RemoteFunction"]
