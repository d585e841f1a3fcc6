"""Which printed lines of tasks and actors a driver shows. Pure.

Theory of operation
-------------------
Many workers often print the same line, but for numbers in it. The first is shown at once. When
others print it too within `Settings.window_s`, theirs are counted and shown once, when the time is
over, with "[repeated 7x across cluster]". What one worker alone repeats is always shown.

Whatever prints more than `LINES_PER_S_MAX` lines a second would stall a notebook: the rest is left
out, and that is said. The files in the session's ``logs`` have everything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ract.core.session import setting

LINES_PER_S_MAX = 10_000

_VARYING = re.compile(r"0x[0-9a-f]+|[0-9a-f]{16,}|\d+")


@dataclass(slots=True)
class Settings:
    """How lines are deduplicated.

    Attributes:
        is_on: Whether they are.
        window_s: Seconds for which equal lines are collected.
        always: Lines that match are always shown.
        never: Lines that match are never shown.
    """

    is_on: bool = True
    window_s: float = 5.0
    always: re.Pattern[str] | None = None
    never: re.Pattern[str] | None = None

    @classmethod
    def from_environment(cls) -> Settings:
        """As ``RACT_DEDUP_LOGS``, ``..._AGG_WINDOW_S``, ``..._ALLOW_REGEX``, ``..._SKIP_REGEX``."""
        allow, skip = setting("DEDUP_LOGS_ALLOW_REGEX"), setting("DEDUP_LOGS_SKIP_REGEX")
        return cls(
            setting("DEDUP_LOGS", "1") != "0",
            float(setting("DEDUP_LOGS_AGG_WINDOW_S") or 5.0),
            re.compile(allow) if allow else None,
            re.compile(skip) if skip else None,
        )


@dataclass(slots=True)
class _Repeated:
    since: float
    sources: set[str]
    count: int = 0
    last: str = ""  #: the last line that was not shown, with its prefix
    is_err: bool = False


@dataclass(slots=True)
class LineFilter:
    """Decides line by line; a shown line is (is it of stderr, text)."""

    settings: Settings = field(default_factory=Settings)
    _repeated: dict[str, _Repeated] = field(default_factory=dict)
    _second: int = -1
    _shown: int = 0
    _left_out: int = 0
    _was_explained: bool = False

    def line(
        self, now: float, source: str, prefix: str, text: str, is_err: bool
    ) -> list[tuple[bool, str]]:
        """What to show when ``source`` (a process) prints a line."""
        settings = self.settings
        if settings.never is not None and settings.never.search(text):
            return []
        shown = (is_err, f"{prefix} {text}")
        if not settings.is_on or (settings.always is not None and settings.always.search(text)):
            return self._limited(now, shown)
        key = _VARYING.sub("#", text)
        known = self._repeated.get(key)
        if known is None or now - known.since >= settings.window_s:
            over = [] if known is None else self._summary(known)
            self._repeated[key] = _Repeated(now, {source})
            return [*over, *self._limited(now, shown)]
        known.sources.add(source)
        if len(known.sources) == 1:
            return self._limited(now, shown)
        known.count += 1
        known.last, known.is_err = shown[1], is_err
        return []

    def due(self, now: float) -> list[tuple[bool, str]]:
        """What to show because its time is over."""
        found = []
        for key, known in list(self._repeated.items()):
            if now - known.since >= self.settings.window_s:
                del self._repeated[key]
                found += self._summary(known)
        return found

    def rest(self) -> list[tuple[bool, str]]:
        """What to show at the end."""
        found = [each for known in self._repeated.values() for each in self._summary(known)]
        self._repeated.clear()
        return [*found, *self._excess()]

    @property
    def is_waiting(self) -> bool:
        """Whether `due` is to be asked again."""
        return bool(self._repeated)

    def _summary(self, known: _Repeated) -> list[tuple[bool, str]]:
        if not known.count:
            return []
        if known.count == 1:
            return [(known.is_err, known.last)]
        hint = "" if self._was_explained else "; RACT_DEDUP_LOGS=0 shows every one"
        self._was_explained = True
        return [(known.is_err, f"{known.last} [repeated {known.count}x across cluster{hint}]")]

    def _limited(self, now: float, shown: tuple[bool, str]) -> list[tuple[bool, str]]:
        over = []
        if int(now) != self._second:
            self._second, self._shown = int(now), 0
            over = self._excess()
        self._shown += 1
        if self._shown > LINES_PER_S_MAX:
            self._left_out += 1
            return over
        return [*over, shown]

    def _excess(self) -> list[tuple[bool, str]]:
        left_out, self._left_out = self._left_out, 0
        if not left_out:
            return []
        text = f"(ract) {left_out} lines are not shown; the files in the session's logs have them"
        return [(True, text)]
