"""Records name the run that wrote them, and no person."""

from __future__ import annotations

from rempart.flows.shared.platform import Platform
from rempart.ledger.attributed import Writer, run_name, writer
from rempart.ledger.keys import signer
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.verification import verify
from rempart.orchestration import runtime
from rempart.settings import config

RUN = "manual__2026-03-01T12:00:00.123456+00:00"


def test_what_a_task_writes_names_its_run_within_what_is_signed() -> None:
    ledger = MemoryLedger()
    platform = Platform(config.load(), config.environment_connections, ledger_=ledger, writer=Writer("d", RUN, "t"))
    record = platform.ledger.append("snapshot", "x", {"rows": 1})
    assert record.body == {"rows": 1, "written_by": {"dag": "d", "run": RUN, "task": "t"}}
    assert writer(platform.ledger.find("snapshot", "x")[0]) == Writer("d", RUN, "t")
    assert verify([entry.line for entry in ledger.chain], [signer(bytes(32)).public], {}).ok


def test_who_writes_outside_of_a_task_writes_as_ever() -> None:
    ledger = MemoryLedger()
    Platform(config.load(), config.environment_connections, ledger_=ledger).ledger.append("snapshot", "x", {"rows": 1})
    assert ledger.records[0].body == {"rows": 1} and writer(ledger.records[0]) is None


def test_a_run_id_that_a_person_chose_is_told_by_its_digest() -> None:
    for made in (RUN, "scheduled__2026-03-01T12:00:00+00:00", "asset_triggered__2026-03-01T12:00:00.1+00:00_aB3dE6gH"):
        assert run_name(made) == made
    assert run_name("for jane.doe@example.eu").startswith("sha256:")
    assert "jane" not in run_name("manual__2026-03-01T12:00:00+00:00 jane")


def test_a_task_is_known_by_what_airflow_sets_in_its_process() -> None:
    context = {"AIRFLOW_CTX_DAG_ID": "d", "AIRFLOW_CTX_DAG_RUN_ID": RUN, "AIRFLOW_CTX_TASK_ID": "t"}
    assert runtime.writer(context) == Writer("d", RUN, "t")
    assert runtime.writer({}) is None and runtime.writer(context | {"AIRFLOW_CTX_TASK_ID": ""}) is None
