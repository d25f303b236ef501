"""What sqlite3 binds is what is recorded."""

import datetime
import enum
import json
import sqlite3

import pytest


class Number(int):
    def __int__(self):
        return -1

    __repr__ = __str__ = lambda self: "number"


class Text(str):
    __repr__ = __str__ = lambda self: "text"


class Real(float):
    __repr__ = __str__ = lambda self: "real"


class Color(enum.Enum):
    RED = "red"


class Kind(str, enum.Enum):
    NOTE = "note"


class Size(enum.IntEnum):
    BIG = 3


class Conforming:
    def __conform__(self, protocol):
        return 12 if protocol is sqlite3.PrepareProtocol else None


class Lazy(dict):
    def __missing__(self, key):
        return f"made up {key}"


class Row:
    def __init__(self, *values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.values[i]


@pytest.fixture
def connection(open_index):
    connection = open_index()
    connection.execute("CREATE TABLE t(a, b)")
    return connection


VALUES = [
    (None, "null"), (True, "1"), (False, "0"), (-(2**63), "-9223372036854775808"), (1.0, "1.0"), (1e22, "1e+22"), (-0.0, "-0.0"),
    (0.1, "0.1"), (float("nan"), "null"), (float("inf"), '{"f":"Infinity"}'), (float("-inf"), '{"f":"-Infinity"}'),
    ("é😀\"\\\n\0", None), (b"", '{"b":""}'), (b"\xff", '{"b":"/w=="}'), (bytearray(b"a"), '{"b":"YQ=="}'),
    (memoryview(b"a"), '{"b":"YQ=="}'), (Number(5), "5"), (Text("x"), '"x"'), (Real(2.5), "2.5"), (Kind.NOTE, '"note"'),
    (Size.BIG, "3"), (Conforming(), "12"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "encoded"), VALUES, ids=lambda v: repr(v)[:20])
def test_values(connection, check_replay, value, encoded):
    connection.execute("INSERT INTO t(a, b) VALUES(?, typeof(?))", (value, value))
    connection.execute("INSERT INTO t(a, b) VALUES(:v, typeof(:v))", {"v": value, "unused": object()})
    connection.executemany("INSERT INTO t(a) VALUES(?)", [[value], [value]])
    connection.commit()
    rows = [entry["rows"] for entry in check_replay()[1:]]
    if encoded:
        assert rows == [f"[[{encoded},{encoded}]]", f'[{{"v":{encoded}}}]', f"[[{encoded}],[{encoded}]]"]
    assert json.loads(rows[0])


def test_registered_adapters(connection, check_replay, monkeypatch):
    monkeypatch.setattr(sqlite3, "adapters", sqlite3.adapters)
    sqlite3.register_adapter(Color, lambda color: color.value)
    sqlite3.register_adapter(datetime.date, lambda day: day.isoformat())
    try:
        connection.execute("INSERT INTO t VALUES(?, ?)", (Color.RED, datetime.date(2020, 1, 2)))
        sqlite3.register_adapter(float, lambda number: f"float {number}")
        connection.execute("INSERT INTO t VALUES(?, ?)", (1.5, 1))
    finally:
        for kind in (Color, float):
            del sqlite3.adapters[kind, sqlite3.PrepareProtocol]
    connection.commit()
    assert [entry["rows"] for entry in check_replay()[1:]] == ['[["red","2020-01-02"]]', '[["float 1.5",1]]']


def test_shapes_of_parameters(connection, check_replay):
    connection.execute("INSERT INTO t VALUES(?, ?)", Row(1, 2))
    connection.execute("INSERT INTO t VALUES(:a, @b)", Lazy(a=1))
    connection.execute("INSERT INTO t VALUES($a, ':no') -- :no\n", {"a": 2, "no": 3})
    connection.commit()
    assert [entry["rows"] for entry in check_replay()[1:]] == ["[[1,2]]", '[{"a":1,"b":"made up b"}]', '[{"a":2}]']


@pytest.mark.parametrize("value", [object(), 2**63, "\ud800", [1], memoryview(b"abcd")[::2]], ids=repr)
def test_what_cannot_be_bound_is_not_recorded(connection, check_replay, value):
    for parameters in ((value, 1), {"a": value, "b": 1}):
        with pytest.raises((sqlite3.Error, OverflowError, BufferError, ValueError)):
            connection.execute("INSERT INTO t VALUES(?, ?)" if isinstance(parameters, tuple) else "INSERT INTO t VALUES(:a, :b)", parameters)
    connection.execute("INSERT INTO t VALUES(1, 1)")
    connection.commit()
    assert len(check_replay()) == 2
