"""Settings of the scheduler under Ray's names."""

import pytest

from ract.core import session
from ract.core.system_config import settings

NAME = "scheduler_spread_threshold"


def test_what_is_given_counts_more_than_the_environment():
    environ = {f"RAY_{NAME}": "0.2"}
    assert settings(None, environ) == {"pack_below": 0.2}
    assert settings({}, {**environ, f"RACT_{NAME}": "0.3"}) == {"pack_below": 0.3}
    assert settings({NAME: 0.4}, environ) == {"pack_below": 0.4}


def test_names_that_ract_has_no_use_for_are_ignored():
    assert settings({"health_check_period_ms": 1}, {}) == {}


@pytest.mark.parametrize("value", ["much", 1.5, -0.1, "nan", [1]])
def test_what_is_no_fraction_is_refused_by_name(value):
    with pytest.raises(ValueError, match=NAME):
        settings({NAME: value}, {})


def test_it_is_a_dict():
    with pytest.raises(TypeError, match="_system_config"):
        settings('{"a": 1}', {})


def test_what_the_head_was_given_counts_more_than_the_environment(monkeypatch):
    monkeypatch.setenv("RACT_some_limit", "1")
    try:
        session.use_system_config({"some_limit": 2, "some_flag": False, "some_share": 0.5})
        assert session.setting("some_limit") == "2"
        assert session.setting("some_flag") == "0"
        assert session.setting("some_share") == "0.5"
        assert session.setting("some_limit", environ={"RAY_some_limit": "3"}) == "3"
        assert session.system_config() == {"some_limit": 2, "some_flag": False, "some_share": 0.5}
    finally:
        session.use_system_config({})
    assert session.setting("some_limit") == "1"
    assert session.setting("some_flag") is None


def test_the_reconnect_timeout_is_in_seconds():
    name = "gcs_rpc_server_reconnect_timeout_s"
    assert settings({name: 120}, {}) == {"reconnect_s": 120.0}
    with pytest.raises(ValueError, match=f"{name} must be a number from 1 to 86400, got 0"):
        settings({name: 0}, {})
