"""A try judges, builds features and scores the baseline of files; it shows no personal value and stores nothing."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rempart.cli.views import trying
from rempart.errors import IngestError, PipelineError
from rempart.flows.training import try_pipeline as flow
from rempart.ingestion.draft import draft_pipeline
from rempart.ingestion.sampling import extract, files, moment_orders
from rempart.orchestration import run_notes
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.training import backends
from tests.unit.ingestion.drafts import unbroken
from tests.unit.training import stage

CANARY = "CANARY-agent-7f3a"
OTHERS = " (rows with another fault are not compared)"
HEADER = "stay_id,lead,nights,breakfast,room,season,agent,arrival,price\n"


def line(i: int, **changes: object) -> str:
    cells: dict[str, object] = {
        "stay_id": i,
        "lead": i % 20,
        "nights": i % 7 or "",
        "breakfast": "true" if i % 2 else "false",
        "room": ("plain", "sea", "suite")[i % 3],
        "season": "fair",
        "agent": CANARY,
        "arrival": f"2026-{i // 28 % 12 + 1:02d}-{i % 28 + 1:02d}",
        "price": 60 + 40 * (i % 3),
    }
    return ",".join(str(value) for value in (cells | changes).values()) + "\n"


def told() -> tuple[list[tuple[str, str]], flow.Told]:
    stages: list[tuple[str, str]] = []
    return stages, lambda stage, text: stages.append((stage, text))


def pipeline(**changes: object) -> Pipeline:
    limits = {"expect": "expect_column_values_to_be_between", "column": "price", "min_value": 0, "max_value": 500}
    return stage.pipeline(**({"expectations": [limits | {"reason": "price is out of range"}]} | changes))


def tried(spec: Pipeline, *files: Path, most: int = 8 << 20) -> flow.Tried:
    return flow.try_pipeline(spec, files, told()[1], most=most)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """400 rows, of which the lines 11, 21 and 31 have a fault."""
    rows = [line(i) for i in range(400)]
    rows[9] = line(9, price=-5)
    rows[19] = line(19, lead="soon")
    rows[29] = line(28)
    target = tmp_path / "stays.csv"
    target.write_text(HEADER + "".join(rows))
    return target


def test_reasons_head_and_baseline(file: Path) -> None:
    stages, say = told()
    found = flow.try_pipeline(pipeline(), [file], say)
    assert [stage for stage, text in stages if not text] == list(flow.STAGES)
    assert stages[-1][1].startswith("mae ") and ("judge rows", "400 rows: 397 accepted, 3 refused") in stages
    (read,) = found.files
    assert (read.read, read.accepted, read.sampled, read.held_back, read.fault) == (400, 397, False, False, None)
    assert {refusal.reason: [e.line for e in refusal.examples] for refusal in read.refusals} == {
        "price is out of range": [11],
        "lead: not a whole number": [21],
        "duplicate of an accepted row": [31],
    }
    assert found.training_rows == 397 and len(found.head) == flow.HEAD
    assert found.baseline is not None and found.baseline.holdout_rows > 0 and found.good
    shown = "\n".join(trying.lines(found, pipeline()))
    first = "stays.csv: 400 rows read, 397 accepted, 3 refused (0.8%; `max_quarantined` allows 5.0% of a run)\n"
    assert shown.startswith(first)
    assert "1 x price is out of range (line 11)" in shown and "Baseline: mae of price is" in shown
    assert f"  1 row repeats the key of an earlier row: stay_id{OTHERS}\n" in shown and "repeated" not in shown
    assert "  LEAK? stay__room alone tells 100.0% of price. The gate would refuse" in shown  # in these rows it does
    known = pipeline(gate={**stage.definition()["gate"], "rules": [{"kind": "leakage", "allow": ["stay__room"]}]})
    assert "LEAK?" not in "\n".join(trying.lines(tried(known, file), known))
    assert CANARY not in shown and CANARY not in str(found) and flow.HIDDEN in shown
    assert "Next: deliver the data, unless it was delivered before, and run the pipeline." in shown
    for limit, is_told in ((found.baseline.bound * 2, True), (found.baseline.bound / 2, False)):
        other = replace(found, baseline=replace(found.baseline, limit=limit))
        most = f"the baseline asks for more, at most {found.baseline.bound:.4g}"
        asked = f"  The limit decides nothing: {most}. Leave it so, or write a lower one."
        assert (asked in list(trying.lines(other, pipeline()))) is is_told
    share = replace(found.baseline, metric="accuracy", bound=0.91, limit=0.5)
    shown = "\n".join(trying.lines(replace(found, baseline=share), pipeline()))
    assert (
        "  The limit decides nothing: the baseline asks for more, at least 0.91. Leave it so, or write a higher"
        in shown
    )
    *_, last = trying.lines(found, pipeline(), "It is still a draft: decide the 2 lines.")
    assert last == "Next: finish include/pipelines/stays_test.yaml. It is still a draft: decide the 2 lines."


def test_repeated_rows_are_told_in_the_words_of_an_ingestion(tmp_path: Path) -> None:
    rows = [line(i) for i in range(400)]
    rows[20], rows[30] = line(19, price=70), line(29)
    (file := tmp_path / "stays.csv").write_text(HEADER + "".join(rows))
    found = tried(spec := pipeline(on_conflict="newest"), file)
    (read,) = found.files
    assert (read.accepted, read.repeated, read.refused, read.same_key) == (398, 2, 0, 2)
    assert read.accepted + read.repeated + read.refused == read.read == 400 and found.training_rows == 398
    shown = list(trying.lines(found, spec))
    words = "398 accepted, 2 repeated (equal or newer rows of their key stand), 0 "
    assert shown[0] == f"stays.csv: 400 rows read, {words}refused"
    assert shown[1] == "  2 rows repeat the key of an earlier row: stay_id"
    results = {"deliveries": 1, "delivered": 400, "accepted": 398, "repeated": 2, "replaced": 0, "quarantined": 0}
    assert words in run_notes.words("ingest", {**results, "snapshot": "s", "total_rows": 398})


def test_reasons_that_share_rows_and_columns_that_are_not_of_the_file_are_told() -> None:
    both = [flow.Refusal(f"{column}: empty", 2, ()) for column in ("price", "lead")]
    file = flow.TriedFile("stays.csv", False, 5, 3, both, False, None)
    row = {"event_timestamp": None, "_known_at": None}
    found = flow.Tried("stays_test", [file], 1, list(row), [row], None, ())
    shown = list(trying.lines(found, pipeline()))
    assert "  (a row may have several reasons)" in shown
    assert [line.split("  ")[1] for line in shown if "(moment" in line or "(target" in line] == [
        "(moment of the row)",
        "(target known from)",
    ]
    alone = replace(file, refusals=both[:1])
    assert "  (a row may have several reasons)" not in list(trying.lines(replace(found, files=[alone]), pipeline()))


def test_a_model_is_trained_in_a_process_of_its_own_and_is_no_verdict(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", "secret")
    stages, say, spec = *told(), pipeline(validation={"share": 0.2})
    found = flow.try_pipeline(spec, [file], say, train=True)
    assert [stage for stage, text in stages if not text] == list(flow.stages(spec, train=True))
    assert found.good and found.baseline and found.model and set(found.model.metrics) >= {"mae", "rmse"}
    assert found.model.metrics["mae"] < found.baseline.value
    shown = "\n".join(trying.lines(found, spec))
    assert f"On the validation part: validation_mae {found.model.validation['validation_mae']:.4g}" in shown
    assert f"Model: mae {found.model.metrics['mae']:.4g}" in shown and "This is no verdict of the gate" in shown
    flatters = "A figure that you choose by flatters the model"
    alone = replace(found, model=replace(found.model, validation={}))
    assert flatters not in shown and flatters in "\n".join(trying.lines(alone, spec))
    for part, is_told in ((2, False), (60, True)):  # a model with this part of the baseline's error
        other = replace(found, model=replace(found.model, metrics={"mae": found.baseline.value / part}))
        assert ("a column that tells the target" in "\n".join(trying.lines(other, spec))) is is_told
    worse = replace(found, model=replace(found.model, metrics={"mae": found.baseline.value * 1.1}))
    shown = "\n".join(trying.lines(worse, spec))
    assert "It is no better than the baseline" in shown and "`loss: absolute_error`" in shown
    assert "The gate would refuse it" not in shown
    for part, is_told in ((0.95, True), (0.5, False)):  # `baseline_margin` asks for a tenth less
        near = replace(found, model=replace(found.model, metrics={"mae": found.baseline.value * part}))
        bound = f"it asks for at most {found.baseline.bound:.4g}, 10% less than the baseline (`gate.baseline_margin`)"
        assert (f"The gate would refuse it: {bound}." in "\n".join(trying.lines(near, spec))) is is_told


def test_a_class_that_no_training_row_has_is_named_unless_rows_were_only_sampled(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pipeline(task="classification")
    found = tried(spec, file)  # all of its rows have the season 'fair'
    assert found.baseline and not found.good
    assert found.open[0] == "No model: no row to learn from has the season cheap, dear."
    assert "Take it out of the `values` of season" in found.open[1]
    take = extract.take
    monkeypatch.setattr(extract, "take", lambda *given: replace(take(*given), whole=False))
    sampled = tried(spec, file)
    assert sampled.files[0].sampled and not any("season cheap" in text for text in sampled.open)


def test_a_training_that_fails_leaves_the_rest_of_the_try_and_quotes_no_value(file: Path) -> None:
    trainer = {"use": "include/trainers/ridge.py:fit", "params": {"alpha": "no"}}
    found = flow.try_pipeline(pipeline(trainer=trainer), [file], told()[1], train=True)
    assert found.baseline and not found.model and not found.good
    assert "run the trainer include/trainers/ridge.py:fit: it raised" in found.open[0] and CANARY not in str(found.open)


@pytest.mark.parametrize(
    ("does", "timeout", "says"),
    [("exec sleep 600", "1s", "longer than 0:00:01"), ("exit 9", "10m", "ended with status 9")],
)
def test_a_training_that_does_not_end_or_ends_its_process_is_told(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, timeout: str, says: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\ncat > /dev/null\n{does}\n")
    program.chmod(0o700)
    monkeypatch.setattr(backends, "python_of", lambda use: str(program))
    found = flow.try_pipeline(pipeline(trainer={"timeout": timeout}), [file], told()[1], train=True)
    assert found.baseline and not found.model and says in found.open[0]


def test_of_data_that_are_not_personal_rows_are_shown(file: Path) -> None:
    found = tried(pipeline(classification="internal"), file)
    (examples,) = [r.examples for r in found.files[0].refusals if "whole number" in r.reason]
    assert examples[0].text is not None and CANARY in examples[0].text
    assert found.head[0]["stay_id"] == 0


def test_a_large_packed_file_is_sampled_and_keeps_its_line_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_HEAD", "_READ"):
        monkeypatch.setattr(flow.extract.blocks, name, 2000)
    body = HEADER + "".join(line(i, price=-1 if i % 10 == 3 else 80) for i in range(2000))
    file = tmp_path / "stays.csv.gz"
    file.write_bytes(gzip.compress(body.encode()))
    (read,) = tried(pipeline(max_quarantined=0.5), file, most=20_000).files
    assert read.sampled and 100 < read.read < 2000
    (refusal,) = read.refusals
    assert refusal.rows > 3 and all(example.line and (example.line - 2) % 10 == 3 for example in refusal.examples)


def test_what_ingestion_would_hold_back_is_told_and_the_try_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "stays.csv"
    file.write_text(HEADER + "".join(line(i, price=-1 if i % 4 == 0 else 80) for i in range(400)))
    found = tried(pipeline(), file)
    assert found.files[0].held_back and found.training_rows == 300 and not found.good
    shown = "\n".join(trying.lines(found, pipeline()))
    assert "100 refused (25.0%; `max_quarantined` allows 5.0% of a run)" in shown
    assert "HELD BACK" in shown and "Or, if these rows shall wait in quarantine, raise `max_quarantined`." in shown


def test_a_file_that_is_refused_as_a_whole_and_too_few_rows(tmp_path: Path) -> None:
    wrong, few = tmp_path / "wrong.csv", tmp_path / "few.csv"
    wrong.write_text("a,b\n1,2\n")
    few.write_text(HEADER + line(1))
    found = tried(pipeline(), wrong)
    assert found.files[0].fault and "names none of the pipeline's columns" in found.files[0].fault and not found.good
    assert "No row was accepted" in "\n".join(trying.lines(found, pipeline()))
    wrong.write_text(HEADER.replace("nights", "nigths", 1) + line(1))
    (file,) = tried(pipeline(), wrong).files
    assert file.fault == "it lacks column 'nights'; column 'nigths' is not in the pipeline file"
    found = tried(pipeline(), few)
    assert found.baseline is None and found.good, "the file is right, and only short"
    shown = list(trying.lines(found, pipeline()))
    assert "The rows of these files are judged. They cover 1 day of arrival, and the hold-out takes" in "".join(shown)
    assert shown[-1].startswith("Next: try again with more files.") and "correct" not in "".join(shown)
    left = flow.try_pipeline(pipeline(), [few], told()[1], train=True)
    assert not left.good and left.open == ("No model: it needs held-out rows and rows before them.",)


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    notes = tmp_path / "notes.docx"
    notes.write_text("hello")
    for path in (notes, tmp_path / "none.csv"):
        with pytest.raises(IngestError) as error:
            tried(pipeline(), path)
        assert ".parquet" in error.value.hint


def test_a_wrong_pipeline_is_answered_as_check_does(file: Path) -> None:
    with pytest.raises(PipelineError, match="is not an expectation that checks each row") as error:
        tried(pipeline(expectations=[{"expect": "expect_table_row_count", "reason": "x"}]), file)
    assert "include/pipelines/stays_test.yaml" in error.value.what


def test_a_profile_of_the_accepted_rows_is_written(file: Path, tmp_path: Path) -> None:
    flow.try_pipeline(pipeline(), [file], told()[1], page=tmp_path / "profile.html")
    text = (tmp_path / "profile.html").read_text()
    assert "Data profile of stays_test" in text and "400 rows" in text and CANARY not in text


def test_the_shipped_file_is_found_by_name() -> None:
    assert [file.name for file in flow.shipped("hotel_bookings")] == ["hotel_bookings.csv.gz"]
    with pytest.raises(IngestError, match="no file was named"):
        flow.shipped("nosuch")


def test_a_personal_column_is_hidden_whatever_its_name(file: Path) -> None:
    changes = {"stay_id": "stay__id", "agent": "agent__of__stay"}
    schema = pipeline().model_dump(mode="json", by_alias=True, exclude_none=True)["schema"]
    spec = pipeline(
        schema={changes.get(name, name): column for name, column in schema.items()},
        key=["stay__id"],
        features={"stay": {"kind": "row", "at": "booking", "columns": ["lead", "agent__of__stay"]}},
        gate={"metric": "mae", "limit": 12, "baseline_by": ["season"]},
    )
    text = file.read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    file.write_text(text)
    found = tried(spec, file)
    assert {row["stay__id"] for row in found.head} == {flow.HIDDEN} and CANARY not in str(found.head)


def test_a_parquet_file_that_unpacks_to_much_more_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_MEMORY", 1 << 20)
    table = pa.table({"id": range(5000), "text": pa.array(["x" * 2000] * 5000)})
    pq.write_table(table, tmp_path / "x.parquet")
    taken = extract.take(tmp_path / "x.parquet", tmp_path / "sample")
    assert not taken.whole and 500 < pq.read_metadata(taken.file).num_rows < 600


def test_an_outcome_that_is_known_a_fixed_time_after_its_row_is_not_learned_from_too_early(tmp_path: Path) -> None:
    """As docs/how-to/target-comes-later.md says."""
    page = (project_root() / "docs/how-to/target-comes-later.md").read_text(encoding="utf-8")
    (moments,) = re.findall(r"^moments:\n  read: .*?(?=^schema:)", page, re.MULTILINE | re.DOTALL)
    spec = ModelPipeline.model_validate(
        yaml.safe_load(
            "name: readings\nclassification: internal\nkey: [tram]\npartition_by: read_at\n"
            "source: {prefix: readings/}\n"
            f"{moments}schema:\n  tram: {{type: string, known: read}}\n  read_at: {{type: timestamp, known: read}}\n"
            "  km: {type: number, known: read}\n  failed: {type: boolean, known: outcome}\n"
            "features: {own: {kind: row, columns: [km]}}\n"
            "prediction: {target: failed, task: classification, at: read}\n"
            "holdout: {column: read_at, start: 2026-03-01}\ngate: {metric: log_loss, limit: 1, baseline_by: []}\n"
        )
    )
    days = [date(2026, 1, 1) + timedelta(days=n) for n in range(90)]
    lines = [f"t{n},{day}T01:00:00Z,{n}.5,{'true' if n % 3 else 'false'}" for n, day in enumerate(days)]
    file = tmp_path / "readings.csv"
    file.write_text("\n".join(["tram,read_at,km,failed", *lines, ""]))
    found = tried(spec, file)
    assert found.late == 14 and found.baseline is not None
    assert (found.baseline.train_rows, found.baseline.holdout_rows) == (45, 31)
    assert "14 rows not used: failed became known only after the hold-out began." in trying.lines(found, spec)


def test_open_rows_are_accepted_and_rows_that_were_closed_too_late_are_told(tmp_path: Path) -> None:
    """As docs/how-to/target-comes-later.md says."""
    first = date(2026, 1, 1)
    rows = ["claim,declared_on,rooms,closed_on,paid"]
    for n in range(200):
        closed = f"{first + timedelta(days=n + 15)},{n % 9 * 100 + 1}" if n < 190 else ","
        rows.append(f"S{n},{first + timedelta(days=n)},{n % 9},{closed}")
    file = tmp_path / "claims.csv"
    file.write_text("\n".join([*rows, ""]))
    text = draft_pipeline(file, target="paid")
    assert "# CHECK: is paid known from closed_on on, and is any other value known later" in text
    assert "rooms alone almost determines paid: is it known" in unbroken(text)
    draft = yaml.safe_load(text)
    assert draft["on_conflict"] == "newest" and draft["prediction"]["at"] == "event"
    for column in ("closed_on", "paid"):
        assert (draft["schema"][column]["known"], draft["schema"][column]["nullable"]) == ("closed_on", True)
    draft["moments"] = {"event": {"column": "declared_on"}, "closed": {"column": "closed_on"}}
    draft["schema"]["paid"] |= {"known": "closed"}
    draft["schema"]["closed_on"] |= {"known": "closed"}
    draft |= {"holdout": {"column": "declared_on", "last": "29d"}}
    spec = ModelPipeline.model_validate(draft)
    found = tried(spec, file)
    (read,) = found.files
    assert (read.accepted, read.refused, read.held_back, found.waiting) == (200, 0, False, 10)
    assert found.baseline is not None and (found.baseline.train_rows, found.baseline.holdout_rows) == (145, 30)
    open_rows = "10 open rows have no paid yet: no examples before they are delivered with it."
    assert open_rows in list(trying.lines(found, spec))
    assert found.late == 15, "claims of the days 145 to 159 were closed on day 160 or later"
    shown = list(trying.lines(found, spec))
    assert "15 rows not used: paid became known only after the hold-out began." in shown
    assert not found.disordered and found.undated == 0
    long = ModelPipeline.model_validate(draft | {"holdout": {"column": "declared_on", "last": "185d"}})
    found = tried(long, file)  # the claims of the 4 days before were closed after the hold-out began
    assert found.good and found.baseline is None and found.late == 4
    why = "They cover 190 days of declared_on, and the hold-out takes the last 185 days. No row before it had its paid"
    assert any(f"{why} by then: pass files with more history" in line for line in trying.lines(found, long))

    file.write_text("\n".join([*rows[:191], *(f"S{n},2026-07-{n - 180},2,,40" for n in range(190, 200)), ""]))
    found = tried(spec, file)
    assert (found.undated, found.baseline and found.baseline.holdout_rows) == (10, 20)
    told_so = "10 rows not used: nothing tells when paid became known (the column of its moment is empty)."
    assert told_so in list(trying.lines(found, spec))
    backwards = spec.model_copy(update={"moments": dict(reversed(spec.moments.items()))})
    wrong = moment_orders.disorders(
        backwards,
        pa.table({"declared_on": [first, None], "closed_on": [first + timedelta(days=1)] * 2}),
    )
    assert wrong == (moment_orders.Disorder("closed", "event", 1, 1),)
    shown = "\n".join(trying.lines(replace(found, disordered=wrong), spec))
    assert "In 1 of 1 row with both, the moment 'event' is before 'closed'." in shown
