"""The text of a run's note, and the links of its tasks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rempart.orchestration import pages, run_notes
from rempart.orchestration.pages import At

INGESTED = {
    "snapshot": "0a1b",
    "changed": True,
    "deliveries": 62,
    "delivered": 15402,
    "accepted": 15389,
    "quarantined": 13,
    "total_rows": 15389,
    "worst": ["2016.csv: 3 rows of guest X"],
}
MATERIALIZED = {
    "snapshot": "0a1b",
    "views": 3,
    "rows_written": 30_000,
    "rows_online": 45_000,
    "seconds": 12.0,
    "changed": True,
}
TRAINED = {
    "version": "4",
    "rows_train": 800,
    "rows_holdout": 180,
    "snapshot": "0a1b",
    "seconds": {"read": 1.0, "train": 2.0},
}
COMPARED = {"pipelines": 1, "views": 3, "compared": 2000, "different": 0}
RETIRED = {"m": {"dry_run": False, "retired": ["1", "2"], "deleted": 8, "left": []}}
APPROVED = {"version": "3", "dry_run": True, "promoted": False, "told": "version 3 of model m becomes champion"}
REFUSED = {"version": "2", "promoted": False, "reasons": ["refused: mae 80.41 is above 25"], "champion": "1"}
POINT = {"id": "20260301T114500Z-0a0b0c", "bytes": 5_200_000, "databases": 7, "objects": 900, "dangling": []}
DRILLED = {
    "ok": True,
    "point_id": "20260301T114500Z-0a0b0c",
    "rto_seconds": 24.2,
    "checks": [{"what": "a", "ok": True}, {"what": "b", "ok": True}, {"what": "c", "ok": None}],
}
VERIFIED = {"replicas": 900, "read": 30, "bytes": 3000, "damaged": ["lake/x"], "unhealed": []}
PLANNED = {"dry_run": True, "done": False, "source": "primary", "target": "haven", "active": "primary"}


@pytest.mark.parametrize(
    ("task", "returned", "message"),
    [
        (
            "ingest",
            INGESTED,
            "15,402 rows delivered, 15,389 accepted, 13 refused in this run; snapshot 0a1b has 15,389 rows.",
        ),
        (
            "ingest",
            INGESTED | {"hint": "DuckDB wrote 12.6 GB to disk."},
            (
                "15,402 rows delivered, 15,389 accepted, 13 refused in this run; snapshot 0a1b has 15,389 rows. "
                "DuckDB wrote 12.6 GB to disk."
            ),
        ),
        (
            "ingest",
            INGESTED | {"accepted": 14_189, "replaced": 2, "repeated": 1200},
            (
                "15,402 rows delivered, 14,189 accepted (2 replaced older rows), 1,200 repeated (equal or newer "
                "rows of their key stand), 13 refused in this run; snapshot 0a1b has 15,389 rows."
            ),
        ),
        (
            "extract",
            {"deliveries": 2, "bytes": 5_200_000, "waiting": 0, "absent": 3, "complete": True},
            "2 deliveries (5.2 MB) were taken from the source. 3 rows are no longer at the source.",
        ),
        (
            "extract",
            {"deliveries": 0, "bytes": 0, "waiting": 1, "absent": None, "complete": True},
            "Deliveries of the last extraction still to be ingested: 1.",
        ),
        (
            "ingest",
            INGESTED | {"seconds": 4.25},
            (
                "15,402 rows delivered, 15,389 accepted, 13 refused in this run; snapshot 0a1b has 15,389 rows. "
                "Computing took 4.2 s, 3,624 rows/s."
            ),
        ),
        (
            "materialize",
            MATERIALIZED,
            (
                "3 feature views of snapshot 0a1b: 45,000 rows online, one for each key or group in each of 3 views; "
                "30,000 rows written. Computing took 12 s, 2,500 rows/s."
            ),
        ),
        (
            "materialize",
            MATERIALIZED | {"rows_written": 0, "seconds": 0.2, "views": 1},
            (
                "1 feature view of snapshot 0a1b: 45,000 rows online, one for each key; 0 rows written. "
                "Computing took 0.2 s."
            ),
        ),
        (
            "train",
            TRAINED,
            "Version 4 was trained on 800 rows, 180 held out; snapshot 0a1b. Computing took 2.0 s, 400 rows/s.",
        ),
        (
            "train",
            TRAINED
            | {
                "metrics": {"validation_mae": 23.25, "backtest_mae_mean": 22.5, "backtest_mae_spread": 0.7071, "mae": 9}
            },
            (
                "Version 4 was trained on 800 rows, 180 held out; snapshot 0a1b. Computing took 2.0 s, 400 rows/s. "
                "On the validation part: mae 23.25. Trained from the past: mae 22.5 with a spread of 0.7071."
            ),
        ),
        (
            "train",
            TRAINED | {"metrics": {"validation_mae": 23.25}, "reused": "version 4 was trained already: run r1"},
            "Version 4 was trained already: run r1.",
        ),
        ("compare_features", COMPARED, "2,000 online entities of 3 feature views have the values of their snapshots."),
        ("ingest", INGESTED | {"deliveries": 0}, "Nothing new was delivered; snapshot 0a1b has 15,389 rows."),
        ("validate", REFUSED, "Version 2 was refused, the champion is still version 1: mae 80.41 is above 25"),
        ("back_up", POINT, "Restore point 20260301T114500Z-0a0b0c: 7 databases (5.2 MB), 900 objects."),
        (
            "report",
            DRILLED,
            "Restore point 20260301T114500Z-0a0b0c proved itself: 2 of 3 checks passed (1 not run), restored in 24 s.",
        ),
        ("verify_primary_to_haven", VERIFIED, "30 replicas read back (3.0 kB): 1 damaged, 0 not repaired."),
        ("probe", {"haven": ["sse"]}, "Sites probed: 1 capability of haven is not proven"),
        (
            "fail_over",
            PLANNED,
            "Dry run: the plan from primary to haven was shown, nothing was moved. The active site is primary.",
        ),
        ("retire", RETIRED, "Retired: m: version 1, 2."),
        ("retire", {}, "No version was retired: nothing is due."),
        ("decide", APPROVED, "Version 3 of model m becomes champion."),
        (
            "validate",
            {**REFUSED, "reasons": ["passed: mae 9 is at most 25"], "awaits": True},
            "Version 2 passed and awaits approval, the champion is still version 1: mae 9 is at most 25",
        ),
    ],
)
def test_a_note_says_in_a_line_what_was_done(task: str, returned: object, message: str) -> None:
    assert run_notes.note({task: returned}, {}) == f"Rempart: {message}"


def test_a_champion_that_is_found_again_is_told_in_lines_and_its_figures_are_of_its_promotion() -> None:
    reasons = ["unchanged since 2026-11-26 12:00 UTC, promoted by validate_model_m, run asset__1, evidence 237"]
    reasons += ["passed: mae of price 3 is at most 5 (the limit)", "passed: mae of price 3 is at most 9 (a baseline)"]
    found = {"version": "4", "promoted": True, "reasons": [*reasons, "also reads nights"], "champion": "4"}
    assert run_notes.words("validate", found).split("\n") == [
        f"Version 4 is still the champion: {reasons[0]}.",
        "It passed the gate then: mae of price 3 is at most 5 (the limit); 9 (a baseline).",
        "Also noted then: also reads nights.",
    ]
    assert str(run_notes.note({"validate": found}, {})).count("\n") == 2


def test_an_inconsistent_point_is_never_told_as_a_good_one() -> None:
    lacking = POINT | {"dangling": ["a", "b"]}
    assert "INCOMPLETE: 2 objects are missing" in str(run_notes.note({"back_up": lacking}, {}))


def test_a_failure_says_why_and_what_to_do_before_what_was_done() -> None:
    failed = {"prune": ["A lock could not be\nextended", "Run `rempart backup repair`."]}
    lines = str(run_notes.note({"back_up": POINT}, failed)).splitlines()
    assert lines[0] == "Rempart: prune failed: A lock could not be extended"
    assert lines[1] == "What to do: Run `rempart backup repair`."
    assert lines[2].startswith("Restore point 2026")
    assert run_notes.note({}, {"report": []}) == "Rempart: report failed. See its log for the cause."


def test_what_data_said_is_not_in_it() -> None:
    assert "guest" not in str(run_notes.note({"ingest": INGESTED}, {}))


def test_there_is_no_note_where_there_is_nothing_to_tell() -> None:
    nothing = {"compare_features": COMPARED | {"pipelines": 0}}
    for returned in ({}, nothing, {"other": {"a": 1}}, {"ingest": None}, {"ingest": {"a form": "of an older release"}}):
        assert run_notes.note(returned, {}) is None


def test_it_fits_into_what_airflow_keeps() -> None:
    failed = {f"task_{i}": ["x" * 5000, "y" * 5000] for i in range(9)}
    made = str(run_notes.note({"ingest": INGESTED}, failed))
    assert len(made) <= run_notes.LONGEST and len(made.splitlines()) == 3


def at(**other: object) -> At:
    plain = {"dag": "train_x", "run": "manual__2026-03-01T12:00:00+00:00", "returned": {}}
    return At(**(plain | {"airflow": "", "mlflow": None} | other))  # type: ignore[arg-type] # as above


def test_links_stay_below_airflows_prefix_and_name_no_host() -> None:
    assert pages.DATA_REPORT.to(at(airflow="https://airflow.example.eu/ml/")) == (
        "/ml/rempart/run?dag_id=train_x&run_id=manual__2026-03-01T12%3A00%3A00%2B00%3A00#snapshot"
    )
    assert pages.POINT_WRITTEN.to(at(returned=POINT)) == f"/rempart/restore-points/{POINT['id']}"
    assert str(pages.POINT_DRILLED.to(at())).endswith("#point")


def test_there_is_a_link_to_mlflow_only_where_people_reach_it() -> None:
    returned = {"run_id": "ab12"}
    assert pages.MLFLOW_RUN.to(at(returned=returned)) is None
    found = pages.MLFLOW_RUN.to(at(returned=returned, mlflow="http://127.0.0.1:15000/"))
    assert found == "http://127.0.0.1:15000/#/runs/ab12"
    assert pages.MLFLOW_RUN.to(at(mlflow="http://127.0.0.1:15000")) is None


def test_what_a_task_returned_cannot_lead_elsewhere() -> None:
    found = pages.POINT_WRITTEN.to(at(returned={"id": "../../evil?x=//host"}))
    assert found == "/rempart/restore-points/..%2F..%2Fevil%3Fx%3D%2F%2Fhost"


def test_the_listener_loads_nothing_heavy() -> None:
    # Airflow loads it with the plugin in each of its processes, tasks among them
    code = "import sys, rempart.orchestration.run_listener; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"airflow", "sqlalchemy", "fastapi", "psycopg", "boto3", "pydantic"}


def test_reasons_of_the_gate_are_one_sentence() -> None:
    reasons = [
        "refused: mae 80 of price is above 25 (the limit)",
        "refused: mae 80 of price is above 31 (a baseline)",
    ]
    assert run_notes.folded(reasons) == "mae 80 of price is above 25 (the limit); 31 (a baseline)"
    assert run_notes.folded([r.replace("refused", "passed") for r in reasons]) == run_notes.folded(reasons)
    assert run_notes.folded(["refused: no rows"]) == "no rows"
