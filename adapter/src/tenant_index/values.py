"""Values as sqlite3 binds them, and the same values as JSON.

`bindable` does once what sqlite3 would do to every parameter (adapters, `__conform__`); the result is both bound and
recorded, so that the two cannot differ.
"""

import base64
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

Parameters: TypeAlias = Sequence[Any] | Mapping[str, Any]

# sqlite3 binds these as they are, unless an adapter is registered for one of them.
_PLAIN: frozenset[type] = frozenset({int, str, float, type(None)})
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


class _Plain:
    """`_PLAIN` without the types that have an adapter; looked at again when adapters were added."""

    adapters = -1
    types = _PLAIN

    @classmethod
    def has(cls, values: Iterable[Any]) -> bool:
        if cls.adapters != len(sqlite3.adapters):
            cls.adapters = len(sqlite3.adapters)
            cls.types = _PLAIN - {kind for kind, _ in sqlite3.adapters}
        return cls.types.issuperset(map(type, values))


def bindable(parameters: Any, names: tuple[str, ...] | None) -> Parameters:
    """What to hand to sqlite3: equal to `parameters`, with adapters applied and, of a dict, only the names in use."""
    if isinstance(parameters, dict):
        named: dict[str, Any] = {}
        for name in names or ():
            try:
                named[name] = parameters[name]
            except LookupError:
                continue  # sqlite3 will say which one is missing
        if _Plain.has(named.values()):
            return named
        return {name: _adapt(value) for name, value in named.items()}
    if type(parameters) is tuple or type(parameters) is list:
        values: Sequence[Any] = parameters
    else:
        values = [parameters[i] for i in range(len(parameters))]
    return values if _Plain.has(values) else [_adapt(value) for value in values]


def _adapt(value: Any) -> Any:
    if type(value) in _Plain.types:
        return value
    # The third argument is the answer where there is no adapter, as sqlite3 itself asks.
    return sqlite3.adapt(value, sqlite3.PrepareProtocol, value)


def text_values(parameters: Parameters) -> Iterable[str]:
    values = parameters.values() if isinstance(parameters, Mapping) else parameters
    return (value for value in values if isinstance(value, str))


def encode(parameters: Parameters) -> str:
    """A row of the contract, from what sqlite3 has accepted."""
    values = parameters.values() if isinstance(parameters, Mapping) else parameters
    if _Plain.has(values):
        try:
            return _encode(parameters)
        except ValueError:
            pass  # NaN or an infinity
    if isinstance(parameters, Mapping):
        return _encode({name: _value(value) for name, value in parameters.items()})
    return _encode([_value(value) for value in parameters])


def _value(value: Any) -> Any:
    if value is None or type(value) in (int, str):
        return value
    if isinstance(value, float):
        number = float.__pos__(value)
        if math.isnan(number):
            return None
        if math.isinf(number):
            return {"f": "Infinity" if number > 0 else "-Infinity"}
        return number
    if isinstance(value, int):
        return int.__pos__(value)
    if isinstance(value, str):
        return str.__str__(value)
    return {"b": base64.b64encode(value).decode("ascii")}
