"""What becomes of replies that nobody waits for any more."""

import types

from ract.client.calls.call import Call
from ract.client.calls.replies import Replies
from ract.core import calls


def test_what_an_item_of_a_call_that_has_failed_here_brought_is_held_no_more():
    dropped = []
    held = types.SimpleNamespace(drop_result=dropped.append)
    replies = Replies(None, held, None, None)
    call = Call(1, b"f", None, "f")  # without its stream, which its failure has ended
    result = (calls.INLINE, b"", [], [(b"i" * 28, 1)])
    replies.apply(None, call, (0, calls.ITEM, 0, result))
    assert dropped == [result]
