"""How many functions an executor keeps ready to run."""

import types

import cloudpickle

from ract.worker.executor.execution import FUNCTIONS_MAX, Execution


def test_the_newest_functions_are_kept_and_older_ones_still_run():
    link = types.SimpleNamespace(welcome=types.SimpleNamespace(config={}))
    execution = Execution(types.SimpleNamespace(link=link))
    for number in range(FUNCTIONS_MAX + 10):
        key = b"%d" % number
        execution.define(key, cloudpickle.dumps(lambda number=number: number))
        assert execution.function(key, None)() == number
    assert len(execution.functions) == FUNCTIONS_MAX
    assert execution.function(b"0", None)() == 0
    assert len(execution.functions) == FUNCTIONS_MAX
