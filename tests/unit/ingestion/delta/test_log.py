"""Versions of a log, replayed, give the snapshot, whichever came before; and they say nothing about a person."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.errors import IntegrityError
from rempart.ingestion import snapshots
from rempart.ingestion.delta import checkpoint, log
from rempart.ingestion.delta.schema import schema_string
from rempart.ingestion.snapshots import Part, Snapshot, SnapshotColumn
from tests.delta_tables import COLUMNS, NAME, part, rows, snapshot

names = st.integers(0, 40).map(lambda n: f"{n:064x}")
parts = st.lists(names, unique=True, max_size=6).map(
    lambda digests: [
        Part("2026-03", f"{snapshots.folder(NAME)}parts/{sha}.parquet", sha, int(sha, 16) + 1, 100 + int(sha, 16))
        for sha in digests
    ]
)
schemas = st.sampled_from([COLUMNS, COLUMNS | {"tip": SnapshotColumn("number", True)}])
lines = st.lists(st.tuples(parts, schemas), min_size=1, max_size=8).map(
    lambda made: [snapshot(found, number, columns) for number, (found, columns) in enumerate(made)]
)


def replayed(bodies: Sequence[bytes]) -> log.State:
    state = log.State()
    for body in bodies:
        state = log.apply(state, body)
    return state


def assert_equals(state: log.State, wanted: Snapshot) -> None:
    shown = {(file.path, file.size, file.rows, file.partition) for file in state.files.values()}
    assert shown == {(f"parts/{p.sha256}.parquet", p.bytes, p.rows, p.partition) for p in wanted.parts}
    assert state.table is not None and state.table.schema == schema_string(wanted.columns)


@given(lines)
@settings(max_examples=150, deadline=None)
def test_a_log_of_a_line_of_snapshots_ends_at_the_newest(line: list[Snapshot]) -> None:
    versions = list(log.chain(line))
    assert [number for number, _ in versions] == list(range(len(versions))) and len(versions) <= len(line)
    state = replayed([body for _, body in versions])
    assert_equals(state, line[-1])
    assert log.commit(state, line[-1]) is None
    assert [body for _, body in log.chain(line)] == [body for _, body in versions]


@given(lines, lines)
@settings(max_examples=100, deadline=None)
def test_any_state_is_brought_to_any_snapshot(before: list[Snapshot], after: list[Snapshot]) -> None:
    state = replayed([body for _, body in log.chain(before)])
    body = log.commit(state, after[-1])
    brought = log.apply(state, body) if body else state
    assert_equals(brought, after[-1])
    assert brought.timestamp >= state.timestamp and (body is None or brought.timestamp > state.timestamp)
    again = log.whole(state, after[-1])
    assert_equals(log.apply(state, again), after[-1])
    assert_equals(log.apply(log.State(state.version), again), after[-1])  # nothing earlier is needed


@given(lines)
@settings(max_examples=30, deadline=None)
def test_a_checkpoint_keeps_the_state(line: list[Snapshot]) -> None:
    state = replayed([body for _, body in log.chain(line)])
    kept = checkpoint.decode(checkpoint.encode(state), state.version)
    assert (kept.version, kept.table, kept.files) == (state.version, state.table, state.files)


def test_a_version_holds_counts_and_names_and_no_value_of_the_data() -> None:
    made, body = part(rows(1, 2, 4))
    actions = [json.loads(line) for line in log.commit(log.State(), snapshot([made])).splitlines()]  # type: ignore[union-attr]
    assert [next(iter(action)) for action in actions] == ["commitInfo", "protocol", "metaData", "add"]
    assert actions[1]["protocol"] == {"minReaderVersion": 1, "minWriterVersion": 2}
    added = actions[3]["add"]
    assert (added["path"], added["size"], json.loads(added["stats"])) == (
        f"parts/{made.sha256}.parquet",
        len(body),
        {"numRecords": 3},
    )
    assert set(actions[0]["commitInfo"]) == {"timestamp", "operation", "operationParameters", "engineInfo", "snapshot"}


def test_other_files_of_the_same_snapshot_are_no_change_of_data() -> None:
    first, second = part(rows(1, 2))[0], part(rows(1))[0]
    state = replayed([log.commit(log.State(), snapshot([first])) or b""])
    compacted = log.commit(state, snapshot([second]))
    assert compacted is not None and b'"dataChange":false' in compacted and b'"dataChange":true' not in compacted
    assert b'"dataChange":true' in (log.commit(state, snapshot([second], 1)) or b"")


def test_a_part_that_no_reader_could_name_is_refused() -> None:
    outside = Part("2026-03", "elsewhere/x.parquet", "x", 1, 1)
    twice = part(rows(1))[0]
    for parts, why in (([outside], "not below snapshots/trips/"), ([twice, twice], "named twice")):
        with pytest.raises(IntegrityError, match=why):
            log.commit(log.State(), snapshot(parts))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"[]", "no action"),
        (b'{"add":{"path":"a"}}', "no action"),
        (b'{"protocol":{"minReaderVersion":3,"minWriterVersion":7}}', "raised the protocol"),
        (
            b'{"add":{"path":"a","size":1,"modificationTime":1,"deletionVector":{"storageType":"u"}}}',
            "deletion vector",
        ),
        (b"<Error/>", "Expecting value"),
    ],
)
def test_what_another_program_wrote_is_refused(line: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        log.apply(log.State(), line + b"\n")


def test_other_bytes_are_no_checkpoint() -> None:
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint.decode(b"<Error/>", 10)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'blob' has no type"):
        schema_string({"a": SnapshotColumn("blob", True)})
