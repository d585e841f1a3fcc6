"""Signatures accept and refuse what Python would, and survive the way through a message."""

import functools
import inspect
import itertools

import msgpack
import pytest

from ract.core.signatures import Signature


def none(): ...
def one(a): ...
def defaults(a, b=1, c=2): ...
def anything(*args, **kwargs): ...
def some_more(a, *args): ...
def keywords(a, **kwargs): ...
def keyword_only(a, *, k, o=1): ...
def only_keywords(*, k): ...
def optional_keyword(*, o=1): ...
def positional_only(a, b=1, /): ...
def mixed(a, /, b, c=1, *, k=2): ...
def same_name(a, /, **kwargs): ...
def everything(a, b=1, *args, k, o=2, **kwargs): ...


class Base:
    def method(self, a, b=1): ...
    @classmethod
    def of_class(cls, a): ...
    @staticmethod
    def static(a): ...
    def star_self(*args): ...


@functools.wraps(defaults)
def wrapped(*args, **kwargs): ...


FUNCTIONS = [
    none,
    one,
    defaults,
    anything,
    some_more,
    keywords,
    keyword_only,
    only_keywords,
    optional_keyword,
    positional_only,
    mixed,
    same_name,
    everything,
    lambda x, y=3: x,
    wrapped,
    functools.partial(defaults, 1),
    functools.partial(defaults, b=5),
    functools.partial(everything, 1, k=3),
    Base().method,
    Base.of_class,
    Base.static,
    Base().star_self,
]
NAMES = ["a", "b", "k", "o", "zzz"]
KEYWORDS = [c for n in range(4) for c in itertools.combinations(NAMES, n)]


def accepts(check):
    try:
        check()
    except TypeError:
        return False
    return True


@pytest.mark.parametrize("through_message", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: getattr(f, "__name__", "partial"))
def test_it_accepts_just_what_python_does(function, through_message):
    signature, real = Signature.of(function), inspect.signature(function)
    if through_message:
        plain = msgpack.unpackb(msgpack.packb(signature.to_plain()))
        signature = Signature.from_plain(plain)
    for n in range(6):
        for keys in KEYWORDS:
            args, kwargs = (0,) * n, dict.fromkeys(keys, 0)
            found = accepts(lambda: signature.check("f", args, kwargs))  # noqa: B023
            expected = accepts(lambda: real.bind(*args, **kwargs))  # noqa: B023
            assert found is expected, f"{real}: {n} positional, {keys}"


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (none, (1,), {}, "f() takes 0 positional arguments but 1 was given"),
        (defaults, (1, 2, 3, 4), {}, "f() takes from 1 to 3 positional arguments but 4 were given"),
        (one, (), {}, "f() missing required arguments: 'a'"),
        (mixed, (), {}, "f() missing required arguments: 'a', 'b'"),
        (keyword_only, (1,), {}, "f() missing required arguments: 'k'"),
        (one, (1,), {"a": 2}, "f() got multiple values for argument 'a'"),
        (one, (1,), {"z": 2}, "f() got an unexpected keyword argument 'z'"),
        (positional_only, (), {"a": 1}, "f() got an unexpected keyword argument 'a'"),
    ],
)
def test_the_error_says_what_does_not_fit(function, args, kwargs, text):
    with pytest.raises(TypeError) as raised:
        Signature.of(function).check("f", args, kwargs)
    assert str(raised.value) == text


def test_methods_are_checked_without_self():
    signature = Signature.of(Base.method, skip_first=True)
    signature.check("method", (1,), {"b": 2})
    with pytest.raises(TypeError, match="missing required arguments: 'a'"):
        signature.check("method", (), {})
    with pytest.raises(TypeError, match="unexpected keyword argument 'self'"):
        signature.check("method", (1,), {"self": 2})
    anything_goes = Signature.of(Base.star_self, skip_first=True)
    anything_goes.check("star_self", (1, 2, 3), {})


def test_a_function_without_parameters_has_no_first_to_skip():
    assert Signature.of(none, skip_first=True).most == 0


@pytest.mark.parametrize("builtin", [int, type, dict.pop, 5])
def test_what_python_cannot_tell_is_none(builtin):
    try:
        inspect.signature(builtin)
    except (ValueError, TypeError):
        assert Signature.of(builtin) is None
    else:
        assert Signature.of(builtin) is not None
    assert Signature.of(5) is None


def test_no_signature_stays_none_through_a_message():
    assert Signature.from_plain(None) is None


def test_bounds_on_positional_arguments_are_known():
    bounds = [(s.least, s.most) for s in map(Signature.of, [none, defaults, some_more, mixed])]
    assert bounds == [(0, 0), (1, 3), (1, -1), (2, 3)]
