"""Errors of the state API."""

from ract.core.errors import RactError


class RayStateApiException(RactError):
    """The state API could not answer."""


class ServerUnavailable(RayStateApiException):
    """There is no cluster to ask."""


class DataSourceUnavailable(RayStateApiException):
    """A part of the cluster did not answer."""
