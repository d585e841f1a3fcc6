"""The arguments of a call: bound, packed, and filled in when they are there.

Theory of operation
-------------------
Plain values travel as they are. All else is one pickle, in which the refs among the arguments are
replaced by slots; a call whose refs are all complete gets their values, or their places in shared
memory, and may go. Whatever an executor is to read is kept alive here until the call has ended
(`Call.kept`), and is held by the executor from the moment that the call is sent.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ract.client.objects import faults, refs
from ract.client.objects.held import id_of
from ract.client.objects.refs import ERROR, INLINE, PLAIN, READY, STORED, ObjectRef
from ract.client.objects.store import INLINE_BYTES_MAX
from ract.client.objects.values import pack
from ract.client.process import user_code
from ract.core import calls, serialization
from ract.core.serialization import Packed

if TYPE_CHECKING:
    from ract.client.calls.call import Call, Extra
    from ract.client.calls.replies import Replies


def dispatch(replies: Replies, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Bind arguments to a call and hand it to its owner.

    The owner gets every call at once by ``submit``, so that it can keep the order; one whose
    arguments are late (``call.waiting``) comes a second time by ``ready``.
    """
    pending = _bind(replies, call, args, kwargs)
    if not pending:
        call.owner.submit(call)
        return
    # One more than the refs: callbacks that run at once do not finish before all are there.
    call.waiting = len(pending) + 1
    call.owner.submit(call)

    def ready(_: ObjectRef | None) -> None:
        with replies.held.lock:
            call.waiting -= 1
            if call.waiting:
                return
        if not call.cancelled:
            _resolve(replies, call)
            call.owner.ready(call)

    for ref in pending:
        ref._when_done(ready)
    ready(None)


def dispatch_late(
    replies: Replies, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Send a call that a finalizer made; its ref is with the program already."""
    try:
        dispatch(replies, call, args, kwargs)
    except Exception as error:
        replies.fail(call, error)


def _bind(
    replies: Replies, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[ObjectRef]:
    """Put the arguments into the call; returns the refs among them that are not ready."""
    if not kwargs and all(map(serialization.is_plain, args)):
        call.args = args
        return []
    slots: list[ObjectRef] = []

    def slot(value: Any) -> Any:
        if not isinstance(value, ObjectRef):
            return value
        if value._home is not replies.values:
            raise refs.left_cluster(value)
        if value._state == PLAIN:
            state, plain = value._outcome()
            if state == PLAIN:
                return plain
        slots.append(value)
        return calls.Slot(len(slots) - 1)

    args = tuple(map(slot, args))
    kwargs = {key: slot(value) for key, value in kwargs.items()}
    if not slots and not kwargs and all(map(serialization.is_plain, args)):
        call.args = args
        return []
    extra = call.more()
    call.args = None
    packed = pack(((args, kwargs)), what=f"arguments of {call.name}")
    _attach(replies, call, extra, packed)
    if not slots:
        return []
    call.kept = [*call.kept, *slots]
    extra.deps = slots  # replaced by values in `_resolve`
    pending = [ref for ref in slots if ref._state < READY]
    if not pending:
        _resolve(replies, call)
    return pending


def _attach(replies: Replies, call: Call, extra: Extra, packed: Packed) -> None:
    if packed.size > INLINE_BYTES_MAX:
        ref = replies.values.put_packed(packed)
        location = ref._value
        call.kept = [*call.kept, ref]
        extra.stored = (ref.binary(), *location)
        extra.hold([ref.binary()])
    else:
        extra.packed = (packed.head, packed.copied_buffers())
    if packed.refs:
        call.kept = [*call.kept, *packed.refs]
        extra.hold(dict.fromkeys(map(id_of, packed.refs)))


def _resolve(replies: Replies, call: Call) -> None:
    """Replace the slots by values; a failed argument fails the call without running it."""
    extra = call.extra
    assert extra is not None
    deps: list[tuple[Any, ...]] = []
    handed = []
    for ref in extra.deps:
        state, value = ref._outcome()
        if state == PLAIN:
            deps.append((calls.PLAIN, value))
        elif state == INLINE:
            head, buffers, contained = value
            if ref._holds:  # what it contains is kept alive by the directory's entry
                handed.append(ref.binary())
            inner = [id_of(r) for r in contained]
            handed += inner
            deps.append((calls.INLINE, head, buffers, [(each, 1) for each in inner]))
        elif state == STORED:
            deps.append((calls.STORED, ref.binary(), *value))
            handed.append(ref.binary())
        if state == ERROR or (state == STORED and value[4]):
            call.cancelled = True
            extra.deps = []
            # To read an error, and to pickle it anew, runs code of users.
            user_code.run(partial(_fail_with, replies, call, ref))
            return
    extra.deps = deps
    if handed:
        extra.hold(handed)


def _fail_with(replies: Replies, call: Call, ref: ObjectRef) -> None:
    try:
        ref._load()
    except BaseException as error:
        replies.fail(call, faults.of_argument(call.name, error))
