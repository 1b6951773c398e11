"""Turn a page of JSON into lines of JSON Lines: one for each row, with numbers as they were written. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

MOST_PARTS = 2_000_000
"""Most commas, brackets and braces of an answer: an answer at this limit takes about half a GiB."""


class NotRows(Exception):
    """Raised when an answer holds no list of rows; the message tells why and quotes no value."""


class _Number(float):
    """A number with a fraction or an exponent, as it was written: a float would round it."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> _Number:
        number = super().__new__(cls, text)
        number.text = text
        return number


@dataclass(frozen=True)
class RowsPage:
    """One parsed answer: the rows, and the whole of which they are a part."""

    rows: list[Mapping[str, Any]]
    whole: Any

    def field(self, path: str) -> Any:
        """Return a field of the answer by its path (`a.b`); None if it is absent."""
        found = self.whole
        for name in path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found


NO_ROW = RowsPage([], None)
"""The page of an answer without a body."""
_LOWEST_ERROR = 400
"""Lowest status of HTTP that tells of an error. Some services write it into an answer with status 200."""


def parse(body: bytes, records: str | None) -> RowsPage:
    """Parse an answer. `records` is the path of the list of rows (`a.b`); without it the answer is the list.

    A `null` in its place is an empty list, as some services write one, unless the answer tells of an error. Raises
    NotRows, before it is parsed if it has more than `MOST_PARTS` parts.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > MOST_PARTS:
        raise NotRows(f"the answer has more than {MOST_PARTS:,} values; ask for smaller pages (`pagination.size`)")
    try:
        whole = json.loads(body, parse_float=_Number, parse_constant=_refuse, object_pairs_hook=_once)
    except NotRows:
        raise
    except RecursionError:
        raise NotRows("the answer is nested too deeply") from None
    except (ValueError, UnicodeDecodeError):  # the cause would quote the answer
        raise NotRows("the answer is not JSON" + (", but HTML" if body.lstrip()[:1] == b"<" else "")) from None
    rows = _list(whole, records) if records else whole
    if rows is None:
        if _fails(whole) or (records and _fails(_place(whole, records))):
            raise NotRows(f"field '{records}' is null, and the answer tells of an error")
        return RowsPage([], whole)
    if not isinstance(rows, list):
        where = f"field '{records}'" if records else "the answer"
        raise NotRows(f"{where} is no list of rows")
    if not all(isinstance(row, dict) for row in rows):
        raise NotRows("a row is not an object with names and values")
    return RowsPage(rows, whole)


def _list(whole: Any, records: str) -> Any:
    """Return the field with the list of rows. Raises NotRows if it is missing."""
    place, name = _place(whole, records), records.rpartition(".")[2]
    if not isinstance(place, dict) or name not in place:
        raise NotRows(f"field '{records}' is missing, so there is no list of rows")
    return place[name]


def _place(whole: Any, records: str) -> Any:
    """Return what holds the list of rows."""
    path = records.rpartition(".")[0]
    return RowsPage([], whole).field(path) if path else whole


def _fails(answer: Any) -> bool:
    """Return whether an answer with status 200 says that the service could not do what it was asked."""
    if not isinstance(answer, dict):
        return False
    if answer.get("error") or answer.get("errors") or False in (answer.get("success"), answer.get("ok")):
        return True
    codes = (answer.get("status"), answer.get("code"))
    return any(
        code >= _LOWEST_ERROR if isinstance(code, int) else str(code).lower() in ("error", "fail", "failed", "failure")
        for code in codes
    )


def lines(page: RowsPage, columns: Collection[str]) -> Iterator[bytes]:
    """Yield each row as one line, without a line end: its values of these columns, in the order of the columns.

    Raises NotRows, as `cells`.
    """
    for row in page.rows:
        taken = {name: row[name] for name in columns if name in row}
        text = _written(taken)
        try:
            yield text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair stays escaped
            yield _written(taken, ascii_only=True).encode()


def cells(page: RowsPage, columns: Collection[str]) -> Iterator[list[str | None]]:
    """Yield each row as the texts of these columns; None for no value. An array or object is its JSON."""
    for row in page.rows:
        yield [_cell(row.get(name)) for name in columns]


def _cell(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode() if value else value
    return _written(value, ascii_only=True)


def _written(value: Any, *, ascii_only: bool = False) -> str:
    try:
        return _text(value, ascii_only=ascii_only)
    except RecursionError:  # the parser goes deeper
        raise NotRows("a value is nested too deeply") from None


def _text(value: Any, *, ascii_only: bool = False) -> str:
    if isinstance(value, _Number):
        return value.text
    if isinstance(value, dict):
        inside = (
            f"{json.dumps(name, ensure_ascii=ascii_only)}:{_text(item, ascii_only=ascii_only)}"
            for name, item in value.items()
        )
        return "{" + ",".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_text(item, ascii_only=ascii_only) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def _refuse(constant: str) -> NoReturn:
    raise NotRows(f"the answer holds {constant}, which JSON does not have")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotRows("an object of the answer holds a name twice")
    return found
