"""Signatures small enough to travel with a handle and quick enough to check on every call.

`inspect.Signature.bind` costs several microseconds; the usual call has positional arguments only,
for which two comparisons decide.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any


class Signature:
    """How a function may be called.

    Attributes:
        least, most: Bounds on positional arguments alone; ``most`` is -1 without limit.
    """

    __slots__ = ("_keyword_only", "_names", "_positional_only", "_var_keyword", "least", "most")

    def __init__(
        self,
        names: list[str],
        required: int,
        positional_only: int,
        var_positional: bool,
        keyword_only: dict[str, bool],
        var_keyword: bool,
    ) -> None:
        self._names = names
        self._positional_only = positional_only
        self._keyword_only = keyword_only
        self._var_keyword = var_keyword
        self.least = required
        self.most = -1 if var_positional else len(names)

    @classmethod
    def of(cls, function: Callable[..., Any], *, skip_first: bool = False) -> Signature | None:
        """The signature of a function, or None where Python cannot tell (some builtins)."""
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (ValueError, TypeError):
            return None
        if (
            skip_first
            and parameters
            and parameters[0].kind
            in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
        ):
            parameters = parameters[1:]
        positional = [
            p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        ]
        return cls(
            [p.name for p in positional],
            sum(p.default is p.empty for p in positional),
            sum(p.kind is p.POSITIONAL_ONLY for p in positional),
            any(p.kind is p.VAR_POSITIONAL for p in parameters),
            {p.name: p.default is p.empty for p in parameters if p.kind is p.KEYWORD_ONLY},
            any(p.kind is p.VAR_KEYWORD for p in parameters),
        )

    def to_plain(self) -> list[Any]:
        """As a list that msgpack takes."""
        return [
            self._names,
            self.least,
            self._positional_only,
            self.most == -1,
            self._keyword_only,
            self._var_keyword,
        ]

    @classmethod
    def from_plain(cls, plain: list[Any] | None) -> Signature | None:
        """The inverse of `to_plain`."""
        return None if plain is None else cls(*plain)

    def plain_range(self) -> tuple[int, int]:
        """(least, most) numbers of positional arguments that always fit; (1, 0) for none."""
        if any(self._keyword_only.values()):
            return 1, 0
        return self.least, sys.maxsize if self.most < 0 else self.most

    def check(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError, as Python would at the call, if the arguments do not fit."""
        n = len(args)
        if not kwargs and not any(self._keyword_only.values()):
            if self.least <= n and (n <= self.most or self.most < 0):
                return
        if self.most >= 0 and n > self.most:
            raise TypeError(
                f"{name}() takes {self._expected()} but {n} {'was' if n == 1 else 'were'} given"
            )
        given = set(self._names[:n])
        for key in kwargs:
            if key in self._names[self._positional_only :]:
                if key in given:
                    raise TypeError(f"{name}() got multiple values for argument '{key}'")
                given.add(key)
            elif key not in self._keyword_only and not self._var_keyword:
                raise TypeError(f"{name}() got an unexpected keyword argument '{key}'")
        missing = [p for p in self._names[: self.least] if p not in given]
        missing += [p for p, must in self._keyword_only.items() if must and p not in kwargs]
        if missing:
            listed = ", ".join(f"'{p}'" for p in missing)
            raise TypeError(f"{name}() missing required arguments: {listed}")

    def _expected(self) -> str:
        count = str(self.most) if self.least == self.most else f"from {self.least} to {self.most}"
        return f"{count} positional argument{'' if count == '1' else 's'}"
