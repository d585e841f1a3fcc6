"""All exceptions, under Ract names and, for ported programs, under Ray's."""

from ract.core.errors import *  # noqa: F403
