"""Queues by priority: against a stable sort."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from ract.core.priorities import insert

numbers = st.lists(st.integers(-3, 3), max_size=40)


def of(item):
    return item[0]


@given(numbers)
def test_what_is_inserted_is_in_the_order_of_a_stable_sort(priorities):
    queue = deque()
    items = [(priority, i) for i, priority in enumerate(priorities)]
    for item in items:
        insert(queue, item, of)
    assert list(queue) == sorted(items, key=lambda item: -item[0])


@given(numbers, st.integers(-3, 3))
def test_what_comes_first_goes_before_its_equals(priorities, priority):
    queue = deque(sorted(((p, i) for i, p in enumerate(priorities)), key=lambda item: -item[0]))
    insert(queue, (priority, "again"), of, first=True)
    order = [p for p, _ in queue]
    assert order == sorted(order, reverse=True)
    assert order.index(priority) == list(queue).index((priority, "again"))
