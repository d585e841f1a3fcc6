"""Many rounds at a time, each of a cell; what does not end is told of, with all that is known.

Each thread of the driver begins a handful of rounds and ends them in another order. A round that
has not ended after a while hangs: then `report` prints what can be known of it.
"""

from __future__ import annotations

import os
import random
import re
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ract
from ract.client.start.tool import ask_node

FAILURES_SHOWN_MAX = 20
IDLE = {("serial.py", "serve"), ("thread.py", "_worker"), ("selectors.py", "select")}
"""Where a thread that has nothing to do waits: file and function."""


class Cell(Protocol):
    """What a round is of: its name is ``str(cell)``."""

    def play(self, cast: Any, rng: random.Random) -> Iterator[None]:
        """One round: it begins up to its ``yield`` and ends after it; raises if it is wrong."""
        ...


Play = Callable[[Any, str, random.Random], Iterator[None]]


@dataclass(frozen=True)
class Act:
    """A cell of a list of acts, each of which is played by several kinds of actors or calls."""

    name: str
    kind: str
    act: Play

    def __str__(self) -> str:
        return f"{self.name} ({self.kind})"

    def play(self, cast: Any, rng: random.Random) -> Iterator[None]:
        """See `Cell.play`."""
        return self.act(cast, self.kind, rng)


def acts_of(acts: list[Act], kinds: Sequence[str]) -> Callable[..., Callable[[Play], Play]]:
    """A decorator that adds a function to the acts, once per kind."""

    def named(name: str, only: Sequence[str] = kinds) -> Callable[[Play], Play]:
        def add(act: Play) -> Play:
            acts.extend(Act(name, kind, act) for kind in only)
            return act

        return add

    return named


@dataclass
class Doing:
    """What a thread does now."""

    cell: Cell
    seed: int
    since: float = field(default_factory=time.monotonic)
    is_ending: bool = False
    is_told: bool = False


class Rounds:
    """Runs rounds of cells until told otherwise.

    Args:
        cells: All cells; each is done as often as each other.
        cast: What they need.
        seed: Of all choices.
        threads: How many threads begin and end rounds.
        hang_s: After so many seconds a round hangs.
        at_once: So many rounds a thread begins before it ends them.
        session_dir: Of a node of the cluster, to ask it for stacks.

    Attributes:
        done: Rounds per cell that have ended.
        failed: Cell, seed and traceback of those that were not right.
        hung: Cell and seed of those that have not ended.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        cast: Any,
        seed: int,
        *,
        threads: int,
        hang_s: float,
        at_once: int,
        session_dir: str,
    ) -> None:
        self.done: Counter[str] = Counter()
        self.failed: list[tuple[str, int, str]] = []
        self.hung: list[tuple[str, int]] = []
        self._cells = cells
        self._cast = cast
        self._rng = random.Random(seed)
        self._hang_s = hang_s
        self._at_once = at_once
        self._session_dir = session_dir
        self._count = threads
        self._lock = threading.Lock()
        self._doing: dict[int, Doing] = {}
        self._order: Iterator[Cell] = iter(())
        self._left = 0
        self._until = 0.0

    def run(self, *, seconds: float, rounds: int) -> None:
        """Do rounds for so long, or so many rounds; or until one hangs."""
        self._left, self._until = rounds, time.monotonic() + seconds
        threads = [self._start_thread() for _ in range(self._count)]
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            self._tell_of_hung()
            if self.hung:
                self._left = 0
                return

    # ------------------------------------------------------------------ the threads

    def _start_thread(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="rounds", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while batch := self._next_batch():
            begun = []
            for cell, seed in batch:
                play = cell.play(self._cast, random.Random(seed))
                if self._step(cell, seed, play):
                    begun.append((cell, seed, play))
            random.Random(batch[0][1]).shuffle(begun)
            while begun:
                self._step(*begun.pop(), is_ending=True)
        self._doing.pop(threading.get_ident(), None)

    def _step(
        self, cell: Cell, seed: int, play: Iterator[None], *, is_ending: bool = False
    ) -> bool:
        """Begin or end a round; returns whether that was right."""
        doing = self._doing[threading.get_ident()] = Doing(cell, seed, is_ending=is_ending)
        try:
            next(play, None)
        except BaseException:
            text = traceback.format_exc()
            with self._lock:
                self.failed.append((str(cell), seed, text))
                if len(self.failed) <= FAILURES_SHOWN_MAX:
                    print(f"FAILED: {cell}, seed {seed}\n{text}", flush=True)
            return False
        if is_ending:
            with self._lock:
                self.done[str(cell)] += 1
                if doing.is_told:
                    print(f"after all it ended: {cell}, seed {seed}", flush=True)
        return True

    def _next_batch(self) -> list[tuple[Cell, int]]:
        with self._lock:
            count = 0 if time.monotonic() >= self._until else min(self._at_once, self._left)
            self._left -= count
            return [(self._next_cell(), self._rng.getrandbits(32)) for _ in range(count)]

    def _next_cell(self) -> Cell:
        for cell in self._order:
            return cell
        self._order = iter(self._rng.sample(self._cells, len(self._cells)))
        return next(self._order)

    # ------------------------------------------------------------------ what hangs

    def _tell_of_hung(self) -> None:
        now = time.monotonic()
        for ident, doing in list(self._doing.items()):
            if now - doing.since > self._hang_s and not doing.is_told:
                doing.is_told = True
                self.hung.append((str(doing.cell), doing.seed))
                step = "ending" if doing.is_ending else "beginning"
                print(f"HANGS ({step}): {doing.cell}, seed {doing.seed}", flush=True)
                report(ident, self._session_dir)


def report(ident: int, session_dir: str) -> None:
    """Print what is known of a thread that waits: what it waits for, and all stacks."""
    seen: set[str] = set()
    frame = sys._current_frames().get(ident)
    while frame is not None:
        for name, found in frame.f_locals.items():
            for ref in found if isinstance(found, (list, tuple)) else [found]:
                if isinstance(ref, ract.ObjectRef) and ref.hex() not in seen:
                    seen.add(ref.hex())
                    print(f"--- {name} of {frame.f_code.co_name}: {_explained(ref)}", flush=True)
        frame = frame.f_back
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for each, top in sys._current_frames().items():
        mark = ", which hangs" if each == ident else ""
        print(f"--- thread {names.get(each)} of the driver{mark}: {_in_short(top)}")
    for line in _stacks_of_executors(session_dir):
        print(line, flush=True)


def _explained(ref: Any) -> str:
    answer: list[str] = []
    # In a thread: what hangs may be what answers.
    asking = threading.Thread(target=lambda: answer.append(ract.explain(ref)), daemon=True)
    asking.start()
    asking.join(10)
    return answer[0] if answer else f"{ref!r}, state {ref._state}; explain does not answer"


def _in_short(frame: Any) -> str:
    """A stack in one line, the innermost call first."""
    stack = traceback.extract_stack(frame)
    return " < ".join(f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in stack[::-1])


def _stacks_of_executors(session_dir: str) -> Iterator[str]:
    try:
        found = ask_node(session_dir, "stacks")
    except Exception as error:
        yield f"--- no stacks of executors: {error!r}"
        return
    frame = re.compile(r'File "(?:.*/)?(\S+)", line (\d+), in (\S+)')
    for node, executors in found["stacks"].items():
        for executor in executors:
            yield f"--- pid {executor['pid']} ({executor['state']}) on node {node[:8]}"
            for text in re.split(r"\n(?=\S)", executor["text"]):
                calls = frame.findall(text)
                if calls and (calls[-1][0], calls[-1][2]) in IDLE:
                    continue
                head, *_ = text.splitlines() or [""]
                stack = " < ".join(f"{file}:{line} {name}" for file, line, name in calls[::-1])
                yield f"    {head} {stack}"
    for node, why in found["errors"].items():
        yield f"--- node {node[:8]}: {why}"
