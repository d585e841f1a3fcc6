"""The books of one node's resources.

Theory of operation
-------------------
Quantities are ints in units of 1/10,000, so that sums are exact. A node has ``total``; who runs
there holds an `Allocation`; ``free`` is the difference. An executor whose task is blocked in
``get`` lends its CPUs (nothing else) to others and takes them again when it goes on, whether they
are free or not: only by that can ``free["CPU"]`` become negative, and by no more than what such
returned executors hold (`Ledger.check`).

Accelerators are numbered devices: a demand below one device shares it with others, a demand for
several takes whole devices, lowest number first. The ledger says which (`Allocation.assigned`).

A bundle of a placement group is an allocation in the books of its node that has books of its own
(`Ledger.within`): who runs in the bundle takes from those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ract.core.accelerators import ACCELERATORS

UNIT = 10_000
"""One CPU, one GPU, one of anything."""


@dataclass(slots=True, eq=False)
class Allocation:
    """What one lease or actor holds on a node."""

    ledger: Ledger  #: the books it stands in
    demand: dict[str, int]
    #: Per accelerator: (device number, quantity) pairs.
    devices: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    is_lent: bool = False  #: its CPUs are given back while its task is blocked
    is_forced: bool = False  #: it took its CPUs again without asking whether they are free

    @property
    def assigned(self) -> dict[str, list[int]]:
        """Device numbers per accelerator, for the executor's environment."""
        return {name: [index for index, _ in pairs] for name, pairs in self.devices.items()}

    def in_use(self, name: str) -> int:
        """Return how much of a resource it takes from others right now."""
        return 0 if self.is_lent and name == "CPU" else self.demand.get(name, 0)


class Ledger:
    """Total and free resources of a node or a bundle, and who holds what.

    Args:
        total: quantities in units.
        devices: quantity of each device, by resource and number; default: whole ones from 0 on.
    """

    def __init__(
        self, total: Mapping[str, int], devices: Mapping[str, Mapping[int, int]] | None = None
    ) -> None:
        self.total = dict(total)
        #: total minus what `holders` have in use. Negative only for CPUs, see `check`.
        self.free = dict(total)
        if devices is None:
            devices = {
                name: dict.fromkeys(range(total[name] // UNIT), UNIT)
                for name in ACCELERATORS
                if total.get(name, 0) >= UNIT
            }
        #: Free quantity of each device.
        self.devices = {name: dict(numbered) for name, numbered in devices.items()}
        self._whole = {name: sum(numbered.values()) for name, numbered in devices.items()}
        self.holders: dict[Allocation, None] = {}
        #: Called after each change of `free`; True if something became free.
        self.on_change: Callable[[bool], None] = _nobody_cares

    @classmethod
    def within(cls, allocation: Allocation) -> Ledger:
        """The books of a bundle, which consists of what ``allocation`` holds."""
        devices = {name: dict(pairs) for name, pairs in allocation.devices.items()}
        return cls(allocation.demand, devices)

    def is_feasible(self, demand: Mapping[str, int]) -> bool:
        """Return whether the demand fits an idle node of this size."""
        return all(self.total.get(name, 0) >= n for name, n in demand.items() if n > 0)

    def fits(self, demand: Mapping[str, int]) -> bool:
        """Return whether the demand can be taken now."""
        return all(
            self.free.get(name, 0) >= n and self._devices_fit(name, n)
            for name, n in demand.items()
            if n > 0
        )

    def take(self, demand: Mapping[str, int]) -> Allocation:
        """Take resources that fit."""
        assert self.fits(demand), (demand, self.free)
        positive = {name: n for name, n in demand.items() if n > 0}
        allocation = Allocation(self, positive)
        for name, n in allocation.demand.items():
            self.free[name] -= n
            if name in self.devices:
                allocation.devices[name] = self._take_devices(name, n)
        self.holders[allocation] = None
        self.on_change(False)
        return allocation

    def give_back(self, allocation: Allocation) -> None:
        """Return everything the allocation still holds."""
        if allocation not in self.holders:
            return
        del self.holders[allocation]
        for name in allocation.demand:
            self.free[name] += allocation.in_use(name)
        for name, pairs in allocation.devices.items():
            self._return_devices(name, pairs)
        self.on_change(True)

    def shrink(self, allocation: Allocation, demand: Mapping[str, int]) -> None:
        """Return what exceeds ``demand``, e.g. once an actor's constructor is done."""
        for name, held in list(allocation.demand.items()):
            kept = min(held, demand.get(name, 0))
            if kept == held:
                continue
            if allocation.in_use(name):
                self.free[name] += held - kept
            if name in allocation.devices:
                self._return_devices(name, allocation.devices.pop(name))
                if kept:
                    allocation.devices[name] = self._take_devices(name, kept)
            if kept:
                allocation.demand[name] = kept
            else:
                del allocation.demand[name]
        self.on_change(True)

    def lend(self, allocation: Allocation) -> None:
        """The holder's task is blocked: its CPUs may be used by others."""
        if not allocation.is_lent:
            self._add_cpu(allocation.in_use("CPU"))
            allocation.is_lent = True

    def reclaim(self, allocation: Allocation) -> None:
        """The holder's task goes on, on CPUs that may have been taken meanwhile."""
        if allocation.is_lent:
            allocation.is_lent = False
            self._add_cpu(-allocation.in_use("CPU"))
            allocation.is_forced = True

    def utilisation(self) -> float:
        """Return the highest used fraction of CPU, memory and accelerators."""
        worst = 0.0
        for name in ("CPU", "memory", *self.devices):
            total = self.total.get(name, 0)
            if total:
                worst = max(worst, 1 - self.free[name] / total)
        return worst

    def check(self) -> None:
        """Assert the invariants of the books."""
        for name, total in self.total.items():
            used = sum(a.in_use(name) for a in self.holders)
            assert self.free[name] == total - used, (name, self.free[name], total, used)
            forced = sum(a.in_use(name) for a in self.holders if a.is_forced)
            allowance = forced if name == "CPU" else 0
            assert self.free[name] >= -allowance, f"{name} oversubscribed: {self.free[name]}"
        for name, devices in self.devices.items():
            assert all(0 <= n <= UNIT for n in devices.values()), (name, devices)
            held = [n for a in self.holders for _, n in a.devices.get(name, ())]
            assert sum(devices.values()) + sum(held) == self._whole[name], (name, devices, held)

    def _add_cpu(self, n: int) -> None:
        if n:
            self.free["CPU"] += n
            self.on_change(n > 0)

    def _devices_fit(self, name: str, n: int) -> bool:
        devices = self.devices.get(name)
        if devices is None:
            return True
        if n < UNIT:
            return any(free >= n for free in devices.values())
        return sum(free == UNIT for free in devices.values()) * UNIT >= n

    def _take_devices(self, name: str, n: int) -> list[tuple[int, int]]:
        devices = self.devices[name]
        if n < UNIT:  # the fullest device that still has room, to keep whole ones for others
            index = min((free, i) for i, free in devices.items() if free >= n)[1]
            devices[index] -= n
            return [(index, n)]
        whole = [i for i in sorted(devices) if devices[i] == UNIT][: -(-n // UNIT)]
        for index in whole:
            devices[index] = 0
        return [(index, UNIT) for index in whole]

    def _return_devices(self, name: str, pairs: list[tuple[int, int]]) -> None:
        for index, n in pairs:
            self.devices[name][index] += n


def _nobody_cares(freed: bool) -> None:
    pass
