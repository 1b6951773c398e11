"""restic's output is read strictly and translated into errors of ours; no secret appears in them."""

import json
import os
import string
import time
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.backup.databases import restic, restic_answers
from rempart.backup.databases.processes import ProcessResult
from rempart.backup.databases.restic import Repository, find_program
from rempart.errors import (
    BackupError,
    RepositoryBusy,
    RepositoryDamaged,
    RepositoryMissing,
    RepositoryRefused,
    SiteError,
    SiteUnavailable,
)
from rempart.settings.config import Connection

ID = "d872aa850b8608581b7b4b8ca260e9e6cbb67cc4159042f31dd4832e4202b887"
FACTS = {
    "backup_start": "2026-11-25T14:54:15.151188234Z",
    "backup_end": "2026-11-25T14:54:15.901188234Z",
    "data_added": 1989250,
    "data_added_packed": 131195,
    "total_bytes_processed": 1988895,
}
STATUS = '{"message_type":"status","seconds_elapsed":4,"percent_done":0,"total_files":1,"bytes_done":1260276}'
SUMMARY = json.dumps({"message_type": "summary", "snapshot_id": ID, "total_duration": 0.75, **FACTS})
STORAGE = Connection(
    "s3_haven",
    "aws",
    login="the-key-id",
    password="the-secret-key",
    extra={"endpoint_url": "https://s3.example.eu/", "region_name": "fr-par", "ca_bundle": "/ca.pem"},
)
REPOSITORY = Repository("haven", STORAGE, "eu", "backups", "databases/mlflow", "the-password", program=Path("/restic"))


def exit_error(message: str, code: int = 1) -> str:
    return json.dumps({"message_type": "exit_error", "code": code, "message": message})


def error(status: int, messages: str) -> BackupError | SiteError:
    found = restic_answers.error_of("backup", REPOSITORY.where, ProcessResult(status, (), messages))
    assert isinstance(found, BackupError | SiteError)
    return found


def test_a_backups_summary_is_what_it_stored() -> None:
    found = restic_answers.read_summary([STATUS, SUMMARY])
    assert found.id == ID and found.bytes_added == 131195 and found.bytes_processed == 1988895
    assert found.seconds == 0.75
    assert found.at == datetime(2026, 11, 25, 14, 54, 15, 151188, tzinfo=UTC)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [STATUS],
        [SUMMARY, SUMMARY],
        ["using parent snapshot"],
        [SUMMARY.replace(ID, "")],
        [SUMMARY.replace("data_added_packed", "x")],
        ["7"],
    ],
)
def test_what_is_no_summary_is_refused(lines: list[str]) -> None:
    with pytest.raises(BackupError, match="restic backup: the answer"):
        restic_answers.read_summary(lines)


def test_snapshots_are_listed_oldest_first() -> None:
    entry = {"time": FACTS["backup_start"], "paths": ["/mlflow.dump"], "tags": ["p1"], "id": ID, "summary": FACTS}
    later = {**entry, "id": "e" * 64, "tags": None, "summary": {**FACTS, "backup_start": "2026-11-25T14:54:15.5Z"}}
    first, second = restic_answers.read_snapshots(json.dumps([later, entry]))
    assert (first.id, first.names, first.tags) == (ID, ("mlflow.dump",), ("p1",))
    assert (second.id, second.tags) == ("e" * 64, ())
    for text in ("", "{}", "[{}]", "null", "[null]", json.dumps([{**entry, "id": "short"}])):
        with pytest.raises(BackupError, match="restic snapshots"):
            restic_answers.read_snapshots(text)


def test_how_far_a_backup_is() -> None:
    assert restic_answers.bytes_done(STATUS) == 1260276
    assert [restic_answers.bytes_done(line) for line in ("", "no json", "[]", SUMMARY)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("status", "message", "kind", "excerpt"),
    [
        (3, "Warning: at least one source file could not be read", BackupError, "nothing to store"),
        (
            10,
            "Fatal: repository does not exist: unable to open config file",
            RepositoryMissing,
            "the repository does not exist",
        ),
        (11, "Fatal: unable to create lock in backend", RepositoryBusy, "lock"),
        (12, "Fatal: wrong password or no key found", RepositoryRefused, "password"),
        (1, "Fatal: repository contains errors", RepositoryDamaged, "returns other data"),
        (
            1,
            "Fatal: failed to load snapshot 78b3: LoadRaw: invalid data returned",
            RepositoryDamaged,
            "returns other data",
        ),
        (1, "Fatal: failed to load index: connection reset by peer", SiteUnavailable, "no answer"),
        (1, "Fatal: save: write /tmp/x: no space left on device", BackupError, "disk"),
        (1, "Fatal: unable to open config file: Stat: Access Denied.", SiteError, "refused"),
        (1, "Fatal: unable to open config file: The specified bucket does not exist", SiteError, "refused"),
        (1, "Fatal: Get s3: dial tcp 127.0.0.1:1: connect: connection refused", SiteUnavailable, "no answer"),
        (2, "panic: something", BackupError, "ended with status 2"),
    ],
)
def test_each_end_has_its_own_error(status: int, message: str, kind: type[Exception], excerpt: str) -> None:
    found = error(status, exit_error(message, status))
    assert type(found) is kind
    assert excerpt in found.what and "backups/databases/mlflow at site 'haven'" in found.what
    assert found.hint


def test_a_command_that_failed_is_told_from_restic_that_failed() -> None:
    for how in ("exit status 3", "signal: killed"):
        assert restic_answers.command_failed(exit_error(f"Fatal: unable to save snapshot: command failed: {how}"))
    assert not restic_answers.command_failed(exit_error("Fatal: boom"))


def test_the_reason_of_a_backup_is_the_line_before_if_restic_ends_with_no_result() -> None:
    """Restic 0.18 ends with either line, as its parts happen to end."""
    last = exit_error("Fatal: unable to save snapshot: no result")
    for reason in ("Fatal: command failed: signal: killed", "client.PutObject: connection reset by peer"):
        told = {"message_type": "error", "error": {"message": f"failed to save /x.dump: {reason}"}, "item": "/x.dump"}
        messages = f"{json.dumps(told)}\n{last}"
        assert restic_answers.command_failed(messages) == ("command failed" in reason)
        assert reason in restic_answers.plain_error(messages)
    assert "no result" in restic_answers.plain_error(last)


@given(
    st.text(string.ascii_letters + string.digits, min_size=4), st.sampled_from(['"{}"', "'{}'", "s3:http://{}", '"{}'])
)
def test_nothing_quoted_and_no_url_gets_out(secret: str, frame: str) -> None:
    marked = f"zz9{secret}"
    for messages in (exit_error(f"Fatal: row {frame.format(marked)}"), f"row {frame.format(marked)}"):
        assert marked not in restic_answers.plain_error(messages)
        assert len(restic_answers.plain_error(messages * 100)) <= 200


def test_restic_sees_what_it_needs_and_nothing_else_of_ours() -> None:
    ours = {
        "PATH": "/bin",
        "AIRFLOW_CONN_X": "hush",
        "HOME": "/home/me",
        "RESTIC_PASSWORD_COMMAND": "evil",
        "LANG": "C",
    }
    seen = REPOSITORY.environment(Path("/scratch"), ours)
    assert seen["RESTIC_REPOSITORY"] == "s3:https://s3.example.eu/backups/databases/mlflow"
    assert seen["RESTIC_PASSWORD"] == "the-password" and seen["AWS_SECRET_ACCESS_KEY"] == "the-secret-key"
    assert seen["RESTIC_CACERT"] == "/ca.pem" and seen["AWS_DEFAULT_REGION"] == "fr-par"
    assert seen["HOME"] == "/scratch" and "AWS_SESSION_TOKEN" not in seen
    assert not {"AIRFLOW_CONN_X", "RESTIC_PASSWORD_COMMAND"} & seen.keys()


def test_no_secret_is_in_a_repositorys_text() -> None:
    assert "the-password" not in repr(REPOSITORY) and "the-secret-key" not in repr(REPOSITORY)
    assert "the-password" not in REPOSITORY.where


def script(file: Path, lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{lines}\n")
    file.chmod(0o755)
    return file


def test_restic_on_path_comes_first_then_what_setup_unpacked_and_none_is_too_old(tmp_path: Path) -> None:
    tools_program = script(tmp_path / "venv" / "tools" / "bin" / "restic", 'echo "restic 0.18.0 compiled with go"')
    on_path = script(tmp_path / "bin" / "restic", 'echo "restic 0.18.1 compiled with go"')
    assert find_program(str(on_path.parent), tmp_path / "venv") == on_path
    old = script(tmp_path / "old" / "restic", 'echo "restic 0.14.0 compiled with go"')
    assert find_program(str(old.parent), tmp_path / "venv") == tools_program
    with pytest.raises(BackupError, match=r"old/restic has version 0\.14\.0"):
        find_program(str(old.parent), tmp_path / "nowhere")
    with pytest.raises(BackupError, match="not on PATH"):
        find_program(str(tmp_path / "empty"), tmp_path / "nowhere")


def fake(tmp_path: Path, lines: str) -> Repository:
    program = script(tmp_path / "restic", lines)
    return Repository("haven", STORAGE, "eu", "backups", "x", "the-password", program=program)


def test_no_secret_stands_on_the_command_line(tmp_path: Path) -> None:
    told = tmp_path / "told"
    repository = fake(tmp_path, f'tr "\\0" " " < /proc/$$/cmdline > {told}; echo "[]"')
    assert repository.snapshots() == ()
    assert "snapshots" in told.read_text()
    assert not {"the-password", "the-secret-key", "the-key-id"} & set(told.read_text().split())
    assert all(secret not in told.read_text() for secret in ("the-password", "the-secret-key"))


def test_a_backup_that_does_not_move_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = tmp_path / "pid"
    repository = fake(tmp_path, f"echo $$ > {pid}; while :; do echo '{STATUS}'; sleep 0.1; done")
    for limit in (4, 60):  # on a busy machine, it may be ended before its first line
        monkeypatch.setattr("rempart.backup.databases.restic.STALL_SECONDS", limit)
        with pytest.raises(SiteUnavailable, match="it made no progress"):
            repository.backup_command("a.dump", ["true"], {})
        if pid.exists() and pid.read_text():
            break
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_a_command_wrote_as_it_failed_is_not_lost_where_restic_loses_it(tmp_path: Path) -> None:
    ended = exit_error("Fatal: unable to save snapshot: command failed: exit status 3")
    repository = fake(
        tmp_path,
        f"""until [ "$1" = -- ]; do shift; done; shift; "$@" 2> /dev/null || {{ echo '{ended}' >&2; exit 1; }}""",
    )
    command = ["sh", "-c", 'echo "pg_dump: error: $WHY" >&2; exit 3']
    with pytest.raises(BackupError, match=r"^pg_dump: error: no space left on device\n  What"):
        repository.backup_command("a.dump", command, {"WHY": "no space left on device"}, failed=told)
    with pytest.raises(BackupError, match="nowhere/pg_dump"):
        repository.backup_command("a.dump", ["/nowhere/pg_dump"], {}, failed=told)


def told(messages: str) -> BackupError:
    return BackupError(messages.strip(), "Free some.")


@pytest.mark.full
def test_a_backup_that_moves_may_take_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a pause may be longer than a short limit; a longer limit is tried then."""
    status = '{"message_type":"status","bytes_done":%s}'

    def ends(limit: int) -> bool:
        monkeypatch.setattr("rempart.backup.databases.restic.STALL_SECONDS", limit)
        code = f"for i in 1 2 3 4 5; do printf '{status}\\n' $i; sleep {limit / 4}; done; echo '{SUMMARY}'"
        try:
            return fake(tmp_path, code).backup_command("a.dump", ["true"], {}).id == ID
        except SiteUnavailable:
            return False

    assert any(ends(limit) for limit in (4, 16, 60))


@pytest.mark.full
def test_a_slow_reader_is_not_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine restic itself may stall for longer than a short limit; a longer limit is tried then."""
    repository = fake(tmp_path, "exec head -c 3000001 /dev/zero")

    def ends(limit: int) -> bool:
        monkeypatch.setattr("rempart.backup.databases.restic.STALL_SECONDS", limit)
        seen: list[int] = []

        def sink(chunk: bytes) -> None:
            time.sleep(0 if seen else limit + 1)
            seen.append(len(chunk))

        try:
            return repository.dump("latest", "a.dump", sink).bytes == sum(seen) == 3_000_001
        except SiteUnavailable:
            return False

    assert any(ends(limit) for limit in (4, 60))


def test_a_listing_that_is_one_long_line_is_read_whole(tmp_path: Path) -> None:
    entry = {"paths": ["/a"], "summary": FACTS}
    many = json.dumps([{**entry, "id": f"{number:064x}"} for number in range(2000)])
    (tmp_path / "answer").write_text(many)
    assert len(fake(tmp_path, f"cat {tmp_path}/answer").snapshots()) == 2000


def test_x5_a_disk_that_is_full_ends_a_restore_to_a_file_with_an_error(tmp_path: Path) -> None:
    """/dev/full stands for the disk: every write to it fails as on a full one."""
    repository = fake(tmp_path, "echo body")
    with pytest.raises(BackupError, match="write /dev/full: No space left"):
        repository.dump_file("latest", "a.dump", Path("/dev/full"))


@pytest.mark.parametrize(("size", "known"), [(1 << 20, True), (40 << 20, False)])
def test_an_answer_without_end_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, known: bool
) -> None:
    """restic's list of snapshots is one line, however many there are."""
    monkeypatch.setattr(restic, "MAX_ANSWER", 4 << 20)
    listed = [{"id": ID, "summary": FACTS, "paths": ["/dump"], "tags": ["x" * size]}]
    (tmp_path / "answer").write_text(json.dumps(listed) + "\n", encoding="utf-8")
    program = tmp_path / "restic"
    program.write_text(f"#!/bin/sh\nexec cat {tmp_path / 'answer'}\n", encoding="utf-8")
    program.chmod(0o755)
    repository = replace(REPOSITORY, program=program)
    if known:
        assert [snapshot.id for snapshot in repository.snapshots()] == [ID]
        return
    tracemalloc.start()
    with pytest.raises(BackupError, match=r"restic snapshots, .* the answer is longer than 4 MiB") as refused:
        repository.snapshots()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20 and "restic" in refused.value.hint
