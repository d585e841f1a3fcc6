"""What a node does again and again goes on after an error."""

import asyncio
import logging

from ract.worker.host.upkeep import again_and_again


def run(steps, outcomes):
    """How many steps there are, of which each has one of the outcomes."""
    done = asyncio.Event()
    count = 0

    async def step():
        nonlocal count
        count += 1
        if count == steps:
            done.set()
        outcome = outcomes[min(count, len(outcomes)) - 1]
        if outcome is not None:
            raise outcome

    async def main():
        task = asyncio.create_task(again_and_again("look at the memory", 0.0, step))
        await asyncio.wait_for(done.wait(), 30)
        task.cancel()

    asyncio.run(main())
    return count


def test_no_error_ends_it(caplog):
    errors = [OSError("no /proc"), ZeroDivisionError(), None, None]
    assert run(4, errors) >= 4
    assert "cannot look at the memory: OSError: no /proc" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_an_error_is_said_once_until_it_is_another_one(caplog):
    run(6, [OSError("a"), OSError("a"), OSError("b"), None, OSError("b"), None])
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [text[-1] for text in said] == ["a", "b", "b"]
