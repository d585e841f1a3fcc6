"""Modules that only programs written for Ray import."""

from ract.compat.lazy import submodules

__getattr__ = submodules(__name__)
