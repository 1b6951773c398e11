"""`rempart restore` as a person types it: it explains its plan, and changes nothing without --yes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rempart.backup.keys import age
from rempart.backup.points.restore_plan import Part
from rempart.cli import app
from rempart.deployment.setup import paths
from rempart.errors import BackupError, DatabaseUnavailable, RempartError, StackError
from rempart.flows.restore import restore_command, restore_report
from rempart.flows.restore.restore import RestoreResult
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import to_pem
from rempart.ledger.memory import MemoryLedger
from tests.restorable import BODIES, ESCROW, NOW, SIGNER, House, house

Run = Callable[..., list[str]]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> House:
    made = house()
    monkeypatch.setattr(restore_command, "detached", lambda: made.platform)
    monkeypatch.setattr(restore_command, "open_platform", lambda: made.platform)
    return made


@pytest.fixture
def run(made: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Type it, with the keys in files; the lines of the answer."""
    stack = dataclasses.replace(paths.current(), var=tmp_path / "var")
    monkeypatch.setattr(paths, "current", lambda: stack)
    age.write_identity_file(tmp_path / "escrow.key", ESCROW, NOW)
    (tmp_path / "public.pem").write_text(to_pem(SIGNER.public))
    keys = ["--identity", str(tmp_path / "escrow.key"), "--trust", str(tmp_path / "public.pem")]

    def typed(*words: str) -> list[str]:
        answer = CliRunner().invoke(app, ["restore", *keys, *words], catch_exceptions=False)
        assert not stack.var.exists(), "something was written"
        return answer.output.splitlines()

    return typed


def test_it_lists_explains_and_says_that_nothing_was_changed(made: House, run: Run) -> None:
    first, second = made.point(), made.point()
    listed = run("--list")
    assert listed[0].startswith("2 restore points") and second in listed[1] and first in listed[2]
    document = json.loads("\n".join(run("--list", "--json")))
    assert [point["id"] for point in document["points"]] == [second, first] and document["site"] == "haven"
    told = run()
    assert second in told[0] and told[-1] == "Nothing was changed. Pass --yes to restore."
    assert "Nothing was changed" not in run("--explain")[-1]
    dataset = run("--only", "dataset:bookings")
    assert "1 object" in dataset[-3] and dataset[-2].startswith("undone    nothing: missing and damaged objects")
    assert told[-2].startswith("undone    changes of all databases")
    assert "undone" not in "\n".join(run("--only", "dataset:bookings", "--aside", "trial"))


def test_the_plan_counts_the_objects_that_are_missing_apart_from_those_in_place(
    made: House, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = {**BODIES, ("lake", "raw/bookings/2/b.csv"): b"two", ("lake", "raw/bookings/3/c.csv"): b"three"}
    made.point(bodies)
    for (bucket, key), body in bodies.items():
        if key != "raw/bookings/2/b.csv":
            made.primary.write(bucket, key, b"cut" if key.endswith("c.csv") else body)
    told = [line.partition("; ")[2] for line in run() if line.startswith("to restore: ")]
    assert told == ["missing or of another size: 2; in place: 2, each is read, and stays if intact"]
    assert "missing or of another size: 0; in place: 1," in "\n".join(run("--only", "bucket:artifacts"))
    asked = dataclasses.replace(made.platform, ledger_=(ledger := MemoryLedger(clock=lambda: NOW)))
    monkeypatch.setattr(restore_command, "open_platform", lambda: asked)
    run()
    assert not [record for kind in ("decision", "denial") for record in ledger.find(kind)], "a plan leaves no evidence"

    def lost() -> Platform:
        raise DatabaseUnavailable("Database ledger: no answer", "Start it.")

    monkeypatch.setattr(restore_command, "open_platform", lost)
    assert next(line for line in run() if line.startswith("to restore: ")).endswith("; those in place stay")


def test_the_plan_of_a_part_says_what_is_restored_and_what_stays(made: House, run: Run) -> None:
    made.point({**BODIES, ("lake", "raw/trips/1/a.csv"): b"two"})
    dataset = run("--only", "dataset:bookings")
    (restored,) = [line.split() for line in dataset if line.startswith("restore   ")]
    assert restored == ["restore", "dataset:bookings", "1", "object", "1.5", "kB"]
    assert "untouched bucket:artifacts, bucket:lake except dataset:bookings" in dataset
    assert not [line for line in dataset if line.startswith("part  ")] and "part      bucket:lake" in "\n".join(run())
    assert "untouched bucket:lake" in run("--only", "bucket:artifacts")


def test_the_plan_lists_what_is_newer_or_says_that_it_is_unknown(
    made: House, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.point({**BODIES, ("lake", "snapshots/bookings/current.json"): b"{}"})
    assert "newer     nothing" in "\n".join(run())
    ledger = MemoryLedger(clock=lambda: NOW + timedelta(days=2))
    ledger.append("snapshot", "bookings", {"rows": 1234})
    monkeypatch.setattr(restore_command, "open_platform", lambda: dataclasses.replace(made.platform, ledger_=ledger))
    told = run("--only", "dataset:bookings")
    assert "newer       bookings: a snapshot of 1,234 rows" in told
    taken_back = [line for line in told if line.startswith("undone")]
    assert taken_back[0].startswith("undone    the current snapshot of bookings: that of the point takes its place")
    assert taken_back[1].startswith("undone    nothing else: missing and damaged objects come back")
    assert "newer     nothing" in "\n".join(run("--only", "bucket:artifacts"))

    def lost() -> Platform:
        raise DatabaseUnavailable("Database ledger: no answer", "Start it.")

    monkeypatch.setattr(restore_command, "open_platform", lost)
    assert "newer     UNKNOWN: what came after this restore point: Database ledger: no answer" in run()


class SilentLedger(MemoryLedger):
    """A ledger that opens, and answers no question."""

    def each(self, *given: Any, **more: Any) -> Any:
        raise DatabaseUnavailable("read the ledger: no answer", "Start PostgreSQL.")


def test_a_silent_ledger_does_not_stop_the_plan_which_names_all_that_may_become_older(
    made: House, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.point({**BODIES, ("lake", "snapshots/bookings/current.json"): b"{}"})
    silent = dataclasses.replace(made.platform, ledger_=SilentLedger())
    monkeypatch.setattr(restore_command, "open_platform", lambda: silent)
    told = run()
    assert "newer     UNKNOWN: what came after this restore point: read the ledger: no answer" in told
    (taken_back, *_) = [line for line in told if line.startswith("undone")]
    assert taken_back.startswith("undone    the current snapshot of bookings: that of the point takes its place")
    assert not [line for line in told if line.startswith("newer     nothing")]
    assert told[-1] == "Nothing was changed. Pass --yes to restore."


@pytest.mark.parametrize(
    "words", [("--only", "everything"), ("--aside", "No"), ("--point", "../x"), ("--only", "database:mlflow")]
)
def test_what_cannot_be_is_refused(made: House, run: Run, words: tuple[Any, ...]) -> None:
    made.point()
    with pytest.raises(RempartError) as refused:
        run(*words)
    assert refused.value.hint


def test_without_a_platform_here_a_part_has_nowhere_to_go(made: House, run: Run, tmp_path: Path) -> None:
    made.point()
    with pytest.raises(BackupError, match="No platform exists here to restore a part into"):
        run("--only", "dataset:bookings", "--yes")


def test_a_point_that_looks_attacked_is_doubted(made: House, run: Run) -> None:
    bodies = {("lake", f"raw/bookings/{number}/a.csv"): f"{number},a\n".encode() * 2000 for number in range(6)}
    made.point(bodies)
    assert not [line for line in run("--explain") if line.startswith("WARNING")]
    made.point({key: os.urandom(len(body)) for key, body in bodies.items()})
    doubts = [line for line in run("--explain") if line.startswith("WARNING")]
    assert len(doubts) == 2 and "6 of 6 objects were replaced" in doubts[0] and "look encrypted" in doubts[1]


def test_a_wait_that_nothing_would_hold_to_is_refused(made: House, run: Run) -> None:
    made.point()
    with pytest.raises(StackError, match="--wait works only in containers"):
        run("--wait", "60")


@pytest.mark.parametrize("words", [(), ("--aside", "before")])
def test_the_end_of_a_restore_tells_which_exports_its_sites_lack(
    made: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    made.point()
    done = RestoreResult(True, "p", (), {}, 61.0, 300.0, (), 3, 9, {}, {})
    asked: dict[str, float] = {}
    monkeypatch.setattr(restore_command, "restore", lambda *given, **more: asked.update(more) or done)
    monkeypatch.setattr(restore_command.evidence, "lost_exports", lambda platform: "EXPORTS LOST")
    age.write_identity_file(tmp_path / "escrow.key", ESCROW, NOW)
    (tmp_path / "public.pem").write_text(to_pem(SIGNER.public))
    keys = ["--identity", str(tmp_path / "escrow.key"), "--trust", str(tmp_path / "public.pem")]
    answer = CliRunner().invoke(app, ["restore", *keys, *words, "--yes"], catch_exceptions=False)
    assert ("EXPORTS LOST" in answer.output.splitlines()) == (not words)
    assert asked["preparation"] > 0, "the seconds of the restore begin with the command"


def test_a_plan_says_what_it_takes_back(made: House) -> None:
    made.point()
    manifest = made.open().manifest
    (line,) = restore_report.undone(manifest, [Part("database", "airflow"), Part("bucket", "lake")])
    assert line.startswith("undone    changes of airflow, if they are newer than 2099-03-01 1")
