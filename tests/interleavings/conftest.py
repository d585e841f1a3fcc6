import pytest


@pytest.fixture(autouse=True)
def _plain_locks(monkeypatch):
    """frontrun finds deadlocks by itself; locks that look at their order cost much time."""
    monkeypatch.setenv("RACT_CHECK_LOCK_ORDER", "0")
