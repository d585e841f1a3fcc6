"""How objects in shared memory were made, so that those that are lost can be made again.

Theory of operation
-------------------
A value that a call has left in some node's shared memory goes when that node dies. So the process
that made the call keeps the call, as a `Recipe`, as long as anybody in the cluster holds one of its
results. When the last copy is gone the scheduler says so (`ObjectLost`), and the call runs again,
under its old number, so that its results have their old ids; nobody else need hear of it.

A recipe keeps neither its results nor its arguments alive, only the recipes of those arguments that
were made by calls of this process. An argument that was let go of since is made again first, and
so on. One that nobody holds and that no call made (``put``) is gone for good, and so is what needs
it. The oldest recipes are emptied when all take more than ``max_lineage_bytes``.

To run a call again takes one of its retries. Only calls that have retries have recipes: the others
must not run twice. When the process drops its last ref to an object with a recipe it asks to be
told when nobody else holds it (`LineageKept`, `LineageOver`).

Replies are recorded by whichever thread reads them; all else happens on the IO thread.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ract.client.calls.call import Call, Extra, next_attempt
from ract.client.calls.streams import FIRST_INDEX, UNLIMITED
from ract.client.objects import refs
from ract.client.objects.held import Held
from ract.client.objects.refs import PENDING, ObjectRef
from ract.client.objects.values import Values
from ract.client.process.node_link import NodeLink
from ract.core import calls, ids
from ract.core.messages import LineageKept, ObjectUnrecoverable
from ract.core.session import setting

BYTES_MAX = 2**30
"""What recipes may take, unless ``max_lineage_bytes`` says otherwise."""

RECIPE_BYTES = 1000
"""What one takes beside its arguments, roughly."""

SEVERAL_RUNS = "it has already been run as often as max_retries (or max_task_retries) allows"


class Recipe:
    """A call that has left results in shared memory, and how far it is in being run again.

    Attributes:
        call: As it was sent, without refs; None once it was dropped for lack of room.
        needs: The objects in its arguments.
        upstream: The recipes of those of them that calls of this process made.
        size: Bytes that it takes, roughly.
        wanted: Results that are lost; not empty while it runs or waits to run.
        again: Those that were lost anew meanwhile.
        left: How many of the running call's returns are not there.
        blockers, then: Recipes that must finish before this one can run; those that wait for it.
        kept: Refs to the arguments, from the decision to run until the call is sent.
    """

    __slots__ = (
        "__weakref__",
        "_sizes",
        "again",
        "blockers",
        "call",
        "kept",
        "left",
        "needs",
        "size",
        "then",
        "upstream",
        "wanted",
    )

    def __init__(self, call: Call, known: dict[bytes, Recipe], sizes: deque[int]) -> None:
        self.call: Call | None = _without_refs(call)
        self.needs = _needs(call)
        self.upstream = {i: recipe for i in self.needs if (recipe := known.get(i)) is not None}
        self.size = RECIPE_BYTES + _size(call.extra)
        self._sizes = sizes
        self.wanted: set[bytes] = set()
        self.again: set[bytes] = set()
        self.blockers: set[Recipe] = set()
        self.then: list[Recipe] = []
        self.kept: list[Any] = []
        self.left = 0

    def empty(self) -> None:
        """Drop what it takes to run the call again."""
        self.call, self.needs, self.upstream, self.size = None, (), {}, 0

    def __del__(self) -> None:
        self._sizes.append(self.size)  # a finalizer only appends


class RemadeRef(ObjectRef):
    """Stands for a return of a call that runs again; its value goes to whoever has the real ref."""

    __slots__ = ()


class StreamAgain:
    """Takes the items of a generator that runs again."""

    def __init__(self, lineage: Lineage, recipe: Recipe, call: Call) -> None:
        self._lineage = lineage
        self._recipe = recipe
        self._call = call
        self.received = 0

    def item(self, index: int, result: tuple[Any, ...]) -> None:
        """An item arrived."""
        self.received = max(self.received, index + 1)
        ref = self._lineage.stand_in(self._recipe, self._call, FIRST_INDEX + index)
        self._lineage.apply_result(ref, result)

    def end(self, count: int) -> None:
        """The generator has finished."""
        why = f"its generator was run again and yielded only {count} items"
        self._lineage.finished_soon(self._recipe, why)

    def fail(self, result: tuple[Any, ...]) -> None:
        """The generator has failed: so have the items that it had yet to make."""
        for index in sorted(map(ids.return_index, self._recipe.wanted)):
            ref = self._lineage.stand_in(self._recipe, self._call, index)
            self._lineage.apply_result(ref, result)
        self._lineage.finished_soon(self._recipe, "its generator failed")


class Lineage:
    """The recipes of one process.

    Args:
        link: The connection to the node.
        held: The refs that the cluster knows.
        values: The values of this process.
        post: Has the IO thread call a function.
        apply_result: Completes a ref with what an executor made.
    """

    def __init__(
        self,
        link: NodeLink,
        held: Held,
        values: Values,
        post: Callable[[Callable[[], None]], None],
        apply_result: Callable[[ObjectRef, tuple[Any, ...]], None],
    ) -> None:
        self._link = link
        self._held = held
        self._values = values
        self._post = post
        self.apply_result = apply_result
        self.bytes_max = int(setting("max_lineage_bytes") or BYTES_MAX)
        #: By the id of a result that somebody may hold.
        self.recipes: dict[bytes, Recipe] = {}
        self._sizes: deque[int] = deque()  # of recipes that are gone, to be taken off
        self._bytes = 0
        #: All that are not gone, the oldest first.
        self._by_age: weakref.WeakValueDictionary[int, Recipe] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._lost: deque[tuple[bytes, str]] = deque()
        self._reasons: dict[bytes, str] = {}

    # ------------------------------------------------------------------ keeping recipes

    def add(self, call: Call, object_id: bytes) -> None:
        """A call has left a result in shared memory."""
        recipe = call.recipe
        if recipe is None:
            recipe = call.recipe = Recipe(call, self.recipes, self._sizes)
            self._by_age[next(self._numbers)] = recipe
            self._bytes += recipe.size
        self.recipes[object_id] = recipe
        while self._sizes:
            self._bytes -= self._sizes.popleft()
        if self._bytes > self.bytes_max:
            self._make_room()

    def _make_room(self) -> None:
        enough = self.bytes_max * 9 // 10  # so that the next recipes need not look for room
        for number, oldest in list(self._by_age.items()):
            if self._bytes <= enough:
                return
            if not oldest.wanted:
                del self._by_age[number]
                self._bytes -= oldest.size
                oldest.empty()

    def count(self) -> int:
        """How many recipes take room."""
        return len(self._by_age)

    def dropped(self, object_ids: Iterable[bytes]) -> None:
        """This process has no refs to these any more; others may."""
        kept = [object_id for object_id in object_ids if object_id in self.recipes]
        if kept:
            self._link.tell(LineageKept(self._link.process, kept))

    def over(self, object_ids: list[bytes]) -> None:
        """Nobody holds these any more, unless this process has begun to again."""
        for object_id in object_ids:
            if self._held.find(object_id) is None:
                self.recipes.pop(object_id, None)
            else:  # they were let go of before our hold came
                self.lost(object_id, "it had been released")

    # ------------------------------------------------------------------ running calls again

    def lost(self, object_id: bytes, reason: str) -> None:
        """The last copy of an object that this process made is gone."""
        # Several may be lost at once, some of which are made from others: look when all are known.
        if not self._lost:
            self._post(self._look)
        self._lost.append((object_id, reason))

    def _look(self) -> None:
        found = []
        while self._lost:
            object_id, reason = self._lost.popleft()
            self._reasons[object_id] = reason
            recipe = self.recipes.get(object_id)
            if recipe is None:
                why = (
                    "it was made by ract.put(), or by a call without retries (max_retries=0, "
                    "max_task_retries=0), which must not run twice"
                )
                self._give_up(object_id, "unrecoverable", why)
            elif self._want(recipe, object_id):
                found.append(recipe)
        self._prepare(found)

    def _want(self, recipe: Recipe, object_id: bytes) -> bool:
        """Have the object made again; returns whether that is to be begun."""
        if recipe.wanted:
            (recipe.again if object_id in recipe.wanted else recipe.wanted).add(object_id)
            return False
        recipe.wanted.add(object_id)
        return True

    def _prepare(self, recipes: list[Recipe]) -> None:
        """Find out what these need, begin with that, and run those that lack nothing."""
        begun = []
        while recipes:
            recipe = recipes.pop()
            problem = self._why_not(recipe) or self._gather(recipe, recipes)
            if problem is not None:
                self._fail(recipe, *problem)
            else:
                begun.append(recipe)
        for recipe in begun:
            if recipe.wanted and not recipe.blockers:
                self._run(recipe)

    def _why_not(self, recipe: Recipe) -> tuple[str, str] | None:
        """(kind, why) if the call must not or cannot run again."""
        call = recipe.call
        if call is None:
            limit = f"max_lineage_bytes={self.bytes_max}"
            return "evicted", f"how it was made has been forgotten, for lack of room ({limit})"
        if call.retries == 0:
            return "attempts", SEVERAL_RUNS
        if call.actor_id is not None and call.owner.state == "DEAD":
            return "unrecoverable", f"its actor is dead: {call.owner.death()}"
        return None

    def _gather(self, recipe: Recipe, recipes: list[Recipe]) -> tuple[str, str] | None:
        """Take hold of the arguments; those that are gone are added to what is to be made."""
        for object_id in recipe.needs:
            ref = self._held.find(object_id)
            maker = self.recipes.get(object_id)
            if ref is None and maker is None:
                maker = recipe.upstream.get(object_id)
                if maker is None:
                    why = (
                        f"its argument {object_id.hex()} has been released, and was not made by a "
                        "call of the same process"
                    )
                    return "unrecoverable", why
                self.recipes[object_id] = maker
                if self._want(maker, object_id):
                    recipes.append(maker)
            recipe.kept.append(ref if ref is not None else self._held.borrow(object_id))
            if maker is not None and maker.wanted and maker is not recipe:
                recipe.blockers.add(maker)
                maker.then.append(recipe)
        return None

    def _run(self, recipe: Recipe) -> None:
        made = recipe.call
        assert made is not None, "looked at before"
        made.retries -= 1 if made.retries > 0 else 0
        next_attempt(made)
        call = _without_refs(made)
        call.kept, recipe.kept = recipe.kept, []
        if call.extra is not None:
            call.extra = _with_places_forgotten(call.extra)
        if _is_streaming(call):
            call.stream = StreamAgain(self, recipe, call)
        else:
            returns = call.extra.returns if call.extra is not None else 1
            n = returns if isinstance(returns, int) else 1
            recipe.left = n
            call.refs = [self.stand_in(recipe, call, i + 1) for i in range(n)]
        call.owner.submit(call)

    def stand_in(self, recipe: Recipe, call: Call, index: int) -> RemadeRef:
        """A ref for a return of a call that runs again."""
        made: RemadeRef = object.__new__(RemadeRef)
        made._id = (call.number, call.actor_id, index)
        made._state, made._call, made._home = PENDING, call, self._values
        made._value = None
        made._holds = 0
        made._waiters = [partial(self._remade_soon, recipe)]
        return made

    def _remade_soon(self, recipe: Recipe, ref: ObjectRef) -> None:
        """A return of a call that runs again is there (on any thread)."""
        self._post(partial(self.remade, recipe, ref))

    def remade(self, recipe: Recipe, ref: ObjectRef) -> None:
        """A return of a call that runs again is there."""
        object_id = ref._make_id()
        self._values.renew(object_id, ref, is_wanted=object_id in recipe.wanted)
        recipe.wanted.discard(object_id)
        self._reasons.pop(object_id, None)
        if recipe.left:  # not an item of a stream
            recipe.left -= 1
            if not recipe.left:
                self._finished(recipe, "it was not made again")

    def finished_soon(self, recipe: Recipe, why: str) -> None:
        """As `_finished`, on the IO thread, after what was made before."""
        self._post(partial(self._finished, recipe, why))

    def _finished(self, recipe: Recipe, why: str) -> None:
        """The call has run; ``why``: of what is not there now."""
        for object_id in recipe.wanted:
            self._give_up(object_id, "unrecoverable", why)
        recipe.wanted, recipe.again = recipe.again, set()
        if recipe.wanted:  # they were lost again
            self._prepare([recipe])
            return
        waiting, recipe.then = recipe.then, []
        for each in waiting:
            each.blockers.discard(recipe)
            if each.wanted and not each.blockers:
                self._run(each)

    def _fail(self, recipe: Recipe, kind: str, why: str) -> None:
        failed = [(recipe, kind, why)]
        while failed:
            recipe, kind, why = failed.pop()
            name = recipe.call.name if recipe.call is not None else "its call"
            for object_id in recipe.wanted:
                self._give_up(object_id, kind, why)
                said = f"its argument {object_id.hex()} cannot be made again by {name}: {why}"
                failed += [(each, "unrecoverable", said) for each in recipe.then if each.wanted]
                recipe.then = []
            recipe.wanted.clear()
            recipe.again.clear()
            recipe.blockers.clear()
            recipe.kept = []

    def _give_up(self, object_id: bytes, kind: str, why: str) -> None:
        reason = self._reasons.pop(object_id, "its last copy is gone")
        said = f"{reason}, and {why}"
        self._link.tell(ObjectUnrecoverable(self._link.process, object_id, kind, said))


def _without_refs(call: Call) -> Call:
    """The call as it goes to an executor, without what it keeps alive here."""
    made = Call(call.number, call.target, call.owner, call.name)
    made.args, made.extra, made.definition = call.args, call.extra, call.definition
    made.retries, made.retry_exceptions = call.retries, call.retry_exceptions
    made.parent, made.priority = call.parent, call.priority
    made.actor_id = call.actor_id
    return made


def _needs(call: Call) -> tuple[bytes, ...]:
    """The objects that the arguments name."""
    held = call.extra.holds if call.extra is not None else ()
    return tuple(dict.fromkeys(i for i, _ in held if len(i) == refs.ID_BYTES))


def _is_streaming(call: Call) -> bool:
    return call.extra is not None and call.extra.returns == "streaming"


def _with_places_forgotten(extra: Extra) -> Extra:
    """Arguments may lie elsewhere by now: the executor asks its node for them."""
    found = copy.copy(extra)
    if found.stored is not None:
        found.stored = _unplaced(found.stored)
    if found.deps:
        found.deps = [
            (calls.STORED, *_unplaced(dep[1:])) if dep[0] == calls.STORED else dep
            for dep in found.deps
        ]
    if found.backpressure:
        found.read = UNLIMITED
    return found


def _unplaced(place: tuple[Any, ...]) -> tuple[Any, ...]:
    object_id, node_id, _, _, size, is_error = place
    return (object_id, node_id, "", 0, size, is_error)


def _size(extra: Extra | None) -> int:
    if extra is None:
        return 0
    size = 0
    if extra.packed is not None:
        head, buffers = extra.packed
        size += len(head) + sum(map(len, buffers))
    for dep in extra.deps:
        if dep[0] == calls.INLINE:
            size += len(dep[1]) + sum(map(len, dep[2]))
    return size
