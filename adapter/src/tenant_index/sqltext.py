"""The little that has to be read from the text of a statement: its first word, its named parameters, where it ends.

What a statement does is never guessed from its text: that is SQLite's own answer (`classify`).
"""

import re
import sqlite3
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
      (?P<space>   [ \t\n\f\r\ufeff]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted>  '(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] )
    | (?P<named>   \?\d+ | [:@][\w$\x80-\U0010ffff]+ | \$[\w$\x80-\U0010ffff]+(?:::[\w$\x80-\U0010ffff]*)*(?:\([^)\s]*\))? )
    | (?P<word>    [\w$\x80-\U0010ffff]+ )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
# What sqlite3 itself skips before it looks whether a statement is one that starts a transaction.
_PYTHON_SKIPS = re.compile(r"(?:[ \t\n\f\r]+|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*", re.DOTALL)
_STARTS_TRANSACTION = ("INSERT", "UPDATE", "DELETE", "REPLACE")


def first_word(sql: str) -> tuple[str, int]:
    """The first word in capitals and where it stands; ("", end) where there is none."""
    for token in _TOKEN.finditer(sql):
        if token.lastgroup == "word":
            return token.group().upper(), token.start()
        if token.lastgroup != "space" and token.group() != ";":
            break
    return "", len(sql)


def begins_implicitly(sql: str) -> bool:
    """Whether sqlite3 opens a transaction before it, in its legacy transaction control."""
    skipped = _PYTHON_SKIPS.match(sql)
    start = skipped.end() if skipped else 0
    return sql[start : start + 7].upper().startswith(_STARTS_TRANSACTION)


def words(sql: str, start: int, limit: int) -> list[str]:
    """The next tokens without white space and comments; quotes around names are gone."""
    found: list[str] = []
    for token in _TOKEN.finditer(sql, start):
        if token.lastgroup == "space":
            continue
        text = token.group()
        found.append(text[1:-1] if token.lastgroup == "quoted" else text)
        if len(found) == limit:
            break
    return found


def parameter_names(sql: str) -> tuple[str, ...]:
    """Named parameters without their prefix, as sqlite3 looks them up."""
    named = (token.group()[1:] for token in _TOKEN.finditer(sql) if token.lastgroup == "named")
    return tuple(dict.fromkeys(named))


def mentions(sql: str, names: frozenset[str]) -> str | None:
    """One of the lower-case names that stands in the text as a word or quoted name."""
    for token in _TOKEN.finditer(sql):
        if token.lastgroup in ("word", "quoted"):
            name = token.group().strip("'\"`[]").lower()
            if name in names:
                return name
    return None


def split(script: str) -> Iterator[str]:
    """The statements of a script; SQLite says where a trigger's body ends."""
    start, empty = 0, True
    for token in _TOKEN.finditer(script):
        if token.lastgroup == "space":
            continue
        if token.group() != ";":
            empty = False
        elif empty:
            start = token.end()
        elif sqlite3.complete_statement(script[start : token.end()]):
            yield script[start : token.end()]
            start, empty = token.end(), True
    if not empty:
        yield script[start:]
