"""The section `schema`: a line for each column, with what is in doubt about it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence

from rempart.ingestion.drafting.moments import LATER, moment_of
from rempart.ingestion.drafting.writing import comment_lines, explained, list_lines
from rempart.ingestion.sampling.facts import ColumnFacts
from rempart.ingestion.sampling.names import yaml_text, yaml_word
from rempart.ingestion.sampling.survey import Survey

_MANY = 12
"""Values of a list from which on it is a question whether it is complete."""
_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])[-_. ](?=[^\W\d_])")
_SAME_QUESTIONS = 3
"""Columns up to which a draft asks the same above the line of each, and not once for all."""


def lines(s: Survey) -> Iterator[str]:
    """Yield the section. What holds for all columns is said once, above it."""
    lists = [c for c in s.columns if c.type == "category"]
    told = "`known` is the moment from which a value is known. No model reads a `string`: for a model, write "
    told += "`type: category` and its `values`."
    if lists:
        told += " A row with a value that is not among them goes to quarantine."
    yield from comment_lines(told)
    open_ = [c.name for c in lists if not _is_declared(c, s) and (not s.sample.whole or len(c.values) > _MANY)]
    each = open_ if len(open_) <= _SAME_QUESTIONS else []
    why = "many values" if s.sample.whole else "only the values of a sample"
    many = f"{len(open_)} lists have {why}: are they complete?" if open_ and not each else ""
    spelt = [c.name for c in s.columns if _alike(c.values)]
    more = _spelt_in_more(spelt[:_SAME_QUESTIONS], spelt[_SAME_QUESTIONS:])
    yield from explained("schema:", asks=" ".join(filter(None, (many, more))))
    for column in s.columns:
        doubts, notes = _doubts(column, s, ask_spelling=column.name in spelt[:_SAME_QUESTIONS]), _notes(column, s)
        if column.name in each:
            doubts.append(f"{len(column.values)} values: is the list complete?")
        yield from explained(_entry(column, s), asks="; ".join(doubts), note="; ".join(notes))


def _is_declared(column: ColumnFacts, s: Survey) -> bool:
    """Return whether the source declares the list, as an enumeration of a database does."""
    return column.name in s.sample.declared and bool(s.sample.declared[column.name].values)


def _entry(column: ColumnFacts, s: Survey) -> str:
    outcome = s.closing and column.name in (s.target.name, s.closing)
    parts = [f"type: {column.type}", f"known: {moment_of(s.closing, s) if outcome else 'event'}"]
    if column.type == "decimal":
        parts += [f"precision: {column.precision}", f"scale: {column.scale}"]
    if column.type == "array":
        parts.append(f"items: {column.items}")
    if column.separator:
        parts.append(f"separator: {json.dumps(column.separator)}")
    if column.nullable and not _is_needed(column, s):
        parts.append("nullable: true")
    entry = f"  {yaml_word(column.name)}: {{{', '.join(parts)}"
    if column.type != "category":
        return f"{entry}}}"
    return list_lines(f"{entry}, values: ", column.values, "}")


def _is_needed(column: ColumnFacts, s: Survey) -> bool:
    return column.name in (*s.key.columns, s.time, *([] if s.closing else [s.target.name]))


def _spelt_in_more(asked: Sequence[str], more: Sequence[str]) -> str:
    """Return the question about the columns with values that are spelt alike, beyond those that ask it themselves."""
    if not more:
        return ""
    columns = "1 more column has" if len(more) == 1 else f"{len(more)} more columns have"
    return f"As {', '.join(asked)} below, {columns} values that are spelt alike: {', '.join(more)}"


def _doubts(column: ColumnFacts, s: Survey, *, ask_spelling: bool) -> list[str]:
    """Return what only a person can decide about a column."""
    doubts = [column.doubt] if column.doubt else []
    if column.people and column.type == "category":
        doubts.append(f"it seems to name people ({column.people}): their list stands in this file")
    if ask_spelling:
        alike = _alike(column.values)
        kept = "to keep the rows, map the values: docs/how-to/files-as-they-come.md"
        doubts.append(f"spelt alike: {alike}. The same? Delete the wrong ones: their rows go to quarantine; {kept}")
    if column.nullable and _is_needed(column, s):
        later = f". If they are delivered again with a value, see {LATER}" if column is s.target else ""
        doubts.append(f"empty in some rows, which go to quarantine{later}")
    if column.name == s.closing:
        return doubts  # the section `moments` asks
    if other := s.together.get(column.name):
        doubts.append(f"empty in the same rows as {other}: known only with it?")
    if column.name in s.leaks:
        doubts.append(f"{column.name} alone almost determines {s.target.name}: is it known at `event`?")
    return doubts


def _alike(values: Sequence[str]) -> str:
    """Return the values of a list that differ only in capitals, spaces, and signs between letters; empty without such.

    Other signs tell things apart, such as those of `A+` and `A-`, or of `1-2` and `12`.
    """
    spelt: dict[str, list[str]] = {}
    for value in values:
        plain = _BETWEEN_LETTERS.sub("", unicodedata.normalize("NFKC", value).casefold())
        spelt.setdefault(" ".join(plain.split()), []).append(value)
    found = [" and ".join(map(yaml_text, each)) for each in spelt.values() if len(each) > 1]
    more = len(found) - _SAME_QUESTIONS
    return ", ".join(found[:_SAME_QUESTIONS]) + (f" and {more} more" if more > 0 else "")


def _notes(column: ColumnFacts, s: Survey) -> Sequence[str]:
    """Return what a person should know about a column, and need not decide."""
    notes = [column.note] if column.note else []
    if column is s.target:
        notes.append("the target; a row without it is open" if s.closing else "the target")
    if column.type == "array":
        notes.append("arrays are stored, and no feature")
    is_time = column.type in ("date", "timestamp")
    if column.nullable and is_time and not _is_needed(column, s) and column.name != s.closing:
        needed = "the moment of the prediction or of a view needs a column that is never empty"
        notes.append(f"empty in some rows. It may be the moment of an outcome as it is; {needed}")
    if column.name in s.constant:
        notes.append("the same value in all these rows, which tells a model nothing")
    return notes
