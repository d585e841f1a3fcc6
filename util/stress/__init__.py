"""Rounds of everything that programs do, in processes whose threads take turns in microseconds.

Theory of operation
-------------------
``make stress`` starts clusters of two nodes in which the threads of every process (driver, daemons,
scheduler, executors) change after a microsecond (the setting ``SWITCH_INTERVAL_S``), next to
processes that only take time. So threads overlap in ways that are rare otherwise.

What is done is a table of *cells*. A *round* is one execution of a cell: it begins something, and
ends it later, when other rounds have begun; it knows which value must come out. A round that is
wrong fails. A round that does not end in time *hangs*: then it is printed what each of its refs
waits for (`ract.explain`) and what all threads of all processes do, and the cluster is given up.

There are four phases, each with cells of its own:

* `ract.util.stress.travels`: every way that a ref travels, a matrix of six properties.
* `ract.util.stress.flows`: calls that are cancelled, timed out, streamed, waited for.
* `ract.util.stress.lives`: actors that are made, passed on, dropped, found by name, killed.
* `ract.util.stress.sessions`: a driver that joins and leaves at any moment.

After a phase the driver lets go of everything. Then the scheduler must know no object, no hold, no
lease and no living actor, all resources must be free, and the stores of the nodes must be empty.

A cell, or the random choices of a run, can be played again: ``--only`` names cells, ``--seed`` the
choices. Which threads overlap is left to chance: `tests/interleavings` has the small worlds in
which all orders are tried.
"""
