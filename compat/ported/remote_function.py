"""Remote functions."""

from ract.client.api.remote_function import RemoteFunction

__all__ = ["RemoteFunction"]
