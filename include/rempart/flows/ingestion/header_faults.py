"""Compare the header of a file with the columns of a pipeline, and tell what to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rempart.ingestion.sampling.names import header_entries, plain_name, shown
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import COLUMN

_DELIMITERS = (";", "\t", "|", ",")


@dataclass(frozen=True)
class HeaderFault:
    """Why the header of a file does not fit a pipeline; each is empty if there is no such fault."""

    file: str
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    other: str = ""

    def line(self) -> str:
        """Return the file and its fault as text."""
        return f"{shown(self.file)}: {self.what()}"

    def what(self) -> str:
        """Return the fault as text."""
        told = [
            self.missing and f"it lacks {_columns(self.missing)}",
            self.extra and f"{_columns(self.extra)} {'is' if len(self.extra) == 1 else 'are'} not in the pipeline file",
            self.twice and f"{_columns(self.twice)} occurs twice",
            self.other,
        ]
        return "; ".join(part for part in told if part)


def header_fault(name: str, header: Sequence[str], pipeline: Pipeline) -> HeaderFault | None:
    """Compare the header of a file with the columns of a pipeline; None if they fit. Pure.

    If few columns fit, the first line may be a row, whose values are not repeated.
    """
    columns = list(pipeline.source.names(pipeline.columns).values())
    missing = tuple(column for column in columns if column not in header)
    extra = tuple(column for column in header if column not in columns)
    if spelled := _spelled(missing, extra, pipeline):
        entries = ", ".join(header_entries(spelled))
        left = tuple(column for column in extra if column not in spelled)
        verb = "change `header` of `source` to" if pipeline.source.header else "add to `source`:"
        told = f"it spells columns in another way. In the pipeline file, {verb} header: {{{entries}}}"
        return HeaderFault(name, extra=left, other=told)
    if len(missing) == len(columns):
        return HeaderFault(name, other=_no_column(header, pipeline))
    twice = tuple(column for column in columns if header.count(column) > 1)
    if 2 * len(missing) > len(columns):
        return HeaderFault(name, missing, (), twice, f"columns that the pipeline file does not have: {len(extra)}")
    return HeaderFault(name, missing, extra, twice) if missing or extra or twice else None


def _spelled(missing: Sequence[str], extra: Sequence[str], pipeline: Pipeline) -> dict[str, str]:
    """Return the map of header names with which a file has all columns; empty if it lacks one. Pure."""
    spelled, others = dict(pipeline.source.header), dict[str, list[str]]()
    for other in extra:
        others.setdefault(_plain(other), []).append(other)
    for column, name in pipeline.source.names(pipeline.columns).items():
        if name not in missing:
            continue
        meant = {*others.get(_plain(name), ()), *others.get(_plain(column), ())}
        if len(meant) != 1 or not meant.isdisjoint(spelled):
            return {}
        spelled.pop(name, None)
        spelled[meant.pop()] = column
    return spelled if missing else {}


def _no_column(header: Sequence[str], pipeline: Pipeline) -> str:
    declared = pipeline.source.delimiter
    first = declared.join(header)
    for other in _DELIMITERS:
        if other != declared and set(first.split(other)) & set(pipeline.source.names(pipeline.columns).values()):
            return f"its columns are separated by {other!r}, but the pipeline file declares {declared!r}"
    return "its first line names none of the pipeline's columns; a delivery begins with a header"


def _plain(column: str) -> str:
    """Return a column's name without what differs between two spellings of it."""
    return plain_name(column).replace("_", "")


def _columns(names: Sequence[str]) -> str:
    listed = ", ".join(f"'{shown(name[:50])}'" for name in names[:10])
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"column{'' if len(names) == 1 else 's'} {listed}{more}"


def remedy(pipeline: Pipeline, faults: Sequence[HeaderFault]) -> str:
    """Return what to do about files that cannot be deliveries, with the lines for columns that were added. Pure."""
    told = []
    missing = {name for fault in faults for name in fault.missing}
    given = pipeline.source.names(pipeline.columns)
    empty = [given[name] for name, column in pipeline.columns.items() if column.nullable]
    if absent := [name for name in empty if name in missing]:
        told.append(
            f"C{_columns(absent)[1:]} may be empty, but the header has to name {'it' if len(absent) == 1 else 'them'}: "
            "a column that was renamed would become empty without a word. Add the name, and leave its cells empty."
        )
    file = f"include/pipelines/{pipeline.name}.yaml"
    extra = dict.fromkeys(name for fault in faults for name in fault.extra)
    added = [name for name in extra if re.fullmatch(COLUMN, name)]
    if renamed := _renamed(pipeline, faults):
        told = [renamed, *told, f"If the file is right in another way, correct {file}"]
    elif not added:
        told.append(f"If the file is right, correct {file}")
    else:
        lines = ", ".join(f"`{name}: {{type: ..., known: ..., nullable: true}}`" for name in added[:3])
        told.append(
            f"If the file is right, add to `schema` of {file}: {lines}; or, if a column was renamed, `renamed_from` "
            "(docs/how-to/rows-that-change.md#columns-that-change)"
        )
    return f"Correct the file. {' '.join(told)} and run `rempart pipeline check {pipeline.name}`."


def _renamed(pipeline: Pipeline, faults: Sequence[HeaderFault]) -> str:
    """Return what to write if a supplier renamed the only column that files lack; "" if that is not so. Pure."""
    pairs = {(fault.missing, fault.extra) for fault in faults}
    if len(pairs) != 1 or [len(names) for names in next(iter(pairs))] != [1, 1]:
        return ""
    (missing,), (extra,) = next(iter(pairs))
    given = pipeline.source.names(pipeline.columns)
    column = next(name for name, in_files in given.items() if in_files == missing)
    change = "add " + " ".join(header_entries({extra: column}))
    if column in pipeline.source.header.values():
        change = f"{change}, in place of its entry of now" if extra != column else "delete its entry"
    return (
        f"If '{shown(extra)}' is the new name of '{shown(missing)}', ingest the files that wait, then {change} in "
        f"`source.header` of include/pipelines/{pipeline.name}.yaml: earlier deliveries are read by the map of their "
        "time."
    )
