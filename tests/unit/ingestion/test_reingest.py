"""A delivery that is ingested again: today's rules judge its refused rows, no row counts twice, none is lost."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rempart.backup.keys import age
from rempart.errors import ConfigError, ConnectionMissing, IngestError, ObjectMissing, SiteUnavailable
from rempart.flows.ingestion.ingest import check_quarantine, ingest
from rempart.flows.ingestion.quarantine import MAX_ROWS, held, look
from rempart.flows.ingestion.reingest import reingest, take_in
from rempart.flows.shared.erasures import Erased
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.engine.again import only_quarantined
from rempart.ingestion.engine.deliveries import StagedDelivery
from rempart.ingestion.engine.limits import Resources
from rempart.ingestion.reading import LINE, RAW, RefusedRow
from rempart.ingestion.refused import RefusedFile, RefusedRows, write
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import Connection
from rempart.settings.pipeline import Expectation, Pipeline
from tests import quarantined
from tests.unit.ingestion.conftest import NOW
from tests.unit.ingestion.test_ingest_faults import CutOff

A, B, C = "m1,2026-01-01,1,,base,", "m2,2026-01-01,2,3,night,x", "m3,2026-02-01,3,1,base,"
BAD, WORSE, SHORT = "m4,2026-02-01,900,1,base,", "m5,2026-02-01,9000,1,base,", "m6,2026-02-01"
KEY = age.new_identity()


def allowing(pipeline: Pipeline, highest: int) -> Pipeline:
    """The pipeline, had its rule been another."""
    rule = pipeline.expectations[0].model_dump() | {"max_value": highest}
    return pipeline.model_copy(update={"expectations": [Expectation.model_validate(rule)]})


def outcome(platform: Platform) -> dict[str, Any]:
    (found,) = [all_outcome for all_outcome in all_outcomes(platform) if all_outcome["file"] == "1.csv"]
    return found


def all_outcomes(platform: Platform) -> list[dict[str, Any]]:
    return deliveries.outcomes(platform.sites["primary"], "lake", "readings")


def in_quarantine(platform: Platform) -> dict[int, str]:
    """Lines and reasons of what is in quarantine of the first delivery; there is one object of it at most."""
    found, site = outcome(platform), platform.sites["primary"]
    keys = [info.key for info in site.list("lake", f"quarantine/readings/{found['sha256']}")]
    if not found["quarantined"]:
        assert not keys
        return {}
    assert keys == [landing.quarantine_key("readings", found["sha256"], deliveries.attempt(found))]
    rows = {row.line: row.reasons[0] for row in quarantined.rows_of(site.read("lake", keys[0]))}
    assert len(rows) == found["quarantined"] == found["delivered"] - found["accepted"]
    return rows


def told(platform: Platform) -> list[dict[str, Any]]:
    records = platform.ledger.find("deliveries", "readings")
    return [delivery for record in reversed(records) for delivery in record.body["deliveries"]]


def test_each_delivery_is_evidence_with_counts_reasons_and_results_and_no_value(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A, BAD, SHORT)
    deliver("2.csv", B, header="wrong\n")
    ingest(platform, readings)
    (record,) = platform.ledger.find("deliveries", "readings")
    assert record.body["expectations"] == [
        {"expect": "expect_column_values_to_be_between", "columns": ["kwh"], "reason": "kwh out of range"}
    ]
    first, second = record.body["deliveries"]
    assert (first["judged"], first["unexpected"], first["quarantined"]) == (2, {"kwh out of range": 1}, 2)
    assert (second["judged"], second["unexpected"], second["outcome"]) == (0, {"kwh out of range": 0}, "refused")
    assert "900" not in json.dumps([delivery | {"landed_at": ""} for delivery in record.body["deliveries"]])
    ingest(platform, readings)
    assert len(platform.ledger.find("deliveries")) == 1


def test_after_a_fix_the_rows_that_are_good_now_join_and_the_others_stay(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A, BAD, SHORT, WORSE, A)
    first = ingest(platform, readings)
    sha = outcome(platform)["sha256"]
    assert list(in_quarantine(platform)) == [3, 4, 5, 6]
    fixed = allowing(readings, 1000)
    again = take_in(platform, fixed, sha)
    assert again.changed and again.snapshot != first.snapshot
    assert (again.delivered, again.accepted, again.quarantined, again.total_rows) == (5, 2, 3, 2)
    assert in_quarantine(platform) == {
        4: "too few fields: 2, but the header has 6",
        5: "kwh out of range",
        6: "duplicate of an accepted row",
    }
    assert [(delivery["again"], delivery["added"], delivery["quarantined"]) for delivery in told(platform)] == [
        (0, 1, 4),
        (1, 1, 3),
    ]
    newest = platform.ledger.find("snapshot", "readings")[0].body
    assert (newest["deliveries"], newest["delivered"], newest["accepted"], newest["quarantined"]) == (0, 0, 1, -1)
    kept = platform.sites["primary"].head("lake", landing.quarantine_key("readings", sha, 1)).metadata
    assert kept["retain-until"] == "2026-05-30"
    # the same once more: nothing twice
    before = list(platform.sites["primary"].list("lake"))
    once_more = take_in(platform, fixed, sha)
    assert (once_more.changed, once_more.total_rows, once_more.quarantined) == (False, 2, 3)
    assert list(platform.sites["primary"].list("lake")) == before
    assert len(told(platform)) == 2
    # and the rest after a second fix, whereupon nothing of it is in quarantine but what can never be accepted
    assert take_in(platform, allowing(readings, 10_000), sha).total_rows == 3
    assert list(in_quarantine(platform)) == [4, 6]


def test_a8_more_refused_than_allowed_publishes_nothing_until_the_pipeline_is_corrected(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    strict = readings.model_copy(update={"max_quarantined": 0.3})
    deliver("1.csv", A, BAD, WORSE)
    deliver("2.csv", B, C)
    first = ingest(platform, strict)
    sha = outcome(platform)["sha256"]
    assert (first.total_rows, first.accepted, first.quarantined, first.held) == (2, 2, 3, (sha,))
    assert (outcome(platform)["outcome"], outcome(platform)["held"]) == ("held back", True)
    assert in_quarantine(platform)[2] == HELD
    fewer = take_in(platform, allowing(strict, 1000), sha)
    assert (fewer.changed, fewer.total_rows, fewer.held) == (False, 2, (sha,))
    with pytest.raises(IngestError, match="1 of 3 rows were refused"):
        check_quarantine(strict, fewer)
    assert platform.ledger.find("acceptance") == []
    whole = take_in(platform, allowing(strict, 10_000), sha)
    assert (whole.changed, whole.total_rows, whole.held, whole.quarantined) == (True, 5, (), 0)
    check_quarantine(strict, whole)
    assert in_quarantine(platform) == {}


def test_a8_a_person_accepts_a_delivery_by_name_and_that_is_evidence(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    strict = readings.model_copy(update={"max_quarantined": 0.3})
    deliver("1.csv", A, BAD, WORSE)
    ingest(platform, strict)
    sha = outcome(platform)["sha256"]
    with pytest.raises(IngestError, match="to name a delivery"):
        take_in(platform, strict, None, accept=True)
    done = reingest(platform, strict, sha, accepted_by="user 3")
    check_quarantine(strict, done)
    assert (done.changed, done.total_rows, done.accepted_by) == (True, 1, "user 3")
    (record,) = platform.ledger.find("acceptance")
    assert record.body == {"delivery": sha, "refused": 2, "delivered": 3, "limit": 0.3, "by": "user 3"}
    kinds = [entry.kind for entry in reversed(platform.ledger.find("acceptance") + platform.ledger.find("snapshot"))]
    assert (kinds, list(in_quarantine(platform))) == (["snapshot", "acceptance"], [3, 4])
    assert not reingest(platform, strict, sha, accepted_by="user 3").changed


def test_a8_rows_are_no_duplicates_of_rows_that_are_held_back(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A, BAD, WORSE, SHORT)
    deliver("2.csv", A, B, C)
    result = ingest(platform, readings.model_copy(update={"max_quarantined": 0.34}))
    assert (result.total_rows, result.quarantined, len(result.held)) == (3, 4, 1)


def test_a_file_that_could_not_be_read_is_judged_whole_once_it_can(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A.replace(",", ";"), BAD.replace(",", ";"), header="meter;day;kwh;people;tariff;note\n")
    first = ingest(platform, readings)
    assert (first.delivered, first.quarantined, len(first.unreadable)) == (0, 0, 1)
    with pytest.raises(IngestError, match="1 of 1 deliveries were refused as a whole"):
        check_quarantine(readings, first)
    sha = outcome(platform)["sha256"]
    with pytest.raises(
        IngestError,
        match=r"(?s)cannot be read as readings.yaml says: there is one column.*missing col.*Correct `source`",
    ):
        take_in(platform, readings, sha)
    semicolon = readings.model_copy(update={"source": readings.source.model_copy(update={"delimiter": ";"})})
    result = take_in(platform, semicolon, sha)
    assert (result.accepted, result.quarantined, outcome(platform)["fault"]) == (1, 1, None)
    assert in_quarantine(platform) == {3: "kwh out of range"}


@pytest.mark.parametrize("what", ["unknown", "quarantine", "raw", "kept for long enough"])
def test_what_is_gone_is_told_with_the_remedy_and_nothing_changes(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None], what: str
) -> None:
    deliver("1.csv", A, BAD)
    ingest(platform, readings)
    site, sha = platform.sites["primary"], outcome(platform)["sha256"]
    if what == "unknown":
        sha = "0" * 64
    elif what == "kept for long enough":
        later = platform.clock() + timedelta(days=400)
        platform = replace(platform, clock=lambda: later)
    else:
        for info in list(site.list("lake", f"{what}/")):
            site.delete("lake", info.key)
    before = list(site.list("lake"))
    with pytest.raises(IngestError, match=r"[Dd]eliver|SHA-256"):
        take_in(platform, allowing(readings, 1000), sha)
    assert list(site.list("lake")) == before


class CutOffLedger(MemoryLedger):
    left = 10_000

    def append(self, *arguments: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise SiteUnavailable("cut off", "run again")
        return super().append(*arguments)


@pytest.mark.parametrize("highest", [100, 1000, 10_000])
@pytest.mark.parametrize("by", ["plain run", "the same run"])
def test_cut_off_at_every_change_it_ends_as_if_never_cut(
    platform: Platform, readings: Pipeline, deliver: Callable[..., None], highest: int, by: str
) -> None:
    fixed = allowing(readings, highest)
    rule = fixed.expectations[0].model_copy(update={"reason": "another reason"})
    fixed = fixed.model_copy(update={"expectations": [rule]})

    def run(site_left: int, ledger_left: int) -> tuple[Any, ...]:
        site, ledger = CutOff(), CutOffLedger()
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
        made = replace(platform, sites={"primary": site}, ledger_=ledger)
        deliver("1.csv", A, BAD, WORSE, to=made)
        ingest(made, readings)
        sha = outcome(made)["sha256"]
        site.left, ledger.left = site_left, ledger_left
        whole = False
        with contextlib.suppress(SiteUnavailable):
            take_in(made, fixed, sha)
            whole = True
        site.left = ledger.left = 10_000
        if by == "plain run":
            ingest(made, fixed)  # completes what was committed
        last = take_in(made, fixed, sha)
        records = [dict(record.body) for record in ledger.find("snapshot")]
        records += [{**delivery, "landed_at": ""} for delivery in told(made)]
        return whole, last.total_rows, last.quarantined, in_quarantine(made), records

    _, *wanted = run(10_000, 10_000)
    assert wanted[0] == {100: 1, 1000: 2, 10_000: 3}[highest]
    cuts = 0
    for limits in (lambda step: (step, 10_000), lambda step: (10_000, step)):
        for step in range(40):
            whole, *found = run(*limits(step))
            assert found == wanted, f"cut off at {limits(step)}"
            if whole:
                break
            cuts += 1
    assert cuts >= 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
def test_each_row_in_quarantine_is_judged_once_or_stays(rows: list[tuple[str, bool]]) -> None:
    refused = [RefusedRow(line, ("why",), text) for line, (text, bad) in enumerate(rows, 2) if bad]
    refused.append(RefusedRow(99, ("too few fields",), "z"))
    with tempfile.TemporaryDirectory() as place:
        read, again = Path(place) / "read", Path(place) / "again"
        texts = pa.array([text for text, _ in rows], pa.string())
        pq.write_table(pa.table({"c": texts, LINE: pa.array(range(2, len(rows) + 2), pa.int64()), RAW: texts}), read)
        resources = Resources(100 << 20, 1, Path(place) / "spill")
        before = RefusedFile(Path(place) / "before", len(refused))
        write(RefusedRows.of(refused).tables(), before.file)
        found = only_quarantined(StagedDelivery(read, len(rows)), before, again, resources)
        table = pq.read_table(again)
    assert [*table[LINE].to_pylist(), 99] == [refused_row.line for refused_row in refused]
    assert table[RAW].to_pylist() == table["c"].to_pylist() == [row.raw for row in refused[:-1]]
    assert list(found.refused) == refused[-1:]


@pytest.fixture
def without_people(platform: Platform) -> Platform:
    """The platform, where Airflow's database cannot be asked for the number of a person."""

    def missing(name: str) -> Connection:
        raise ConnectionMissing(f"no {name}", "")

    return replace(platform, connections=missing)


def opened(sealed: str, identity: age.Identity = KEY) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(age.decrypt(base64.b64decode(sealed), identity, "the rows"))
    return found


def test_a_look_gives_rows_and_reasons_to_the_recipient_alone_and_is_evidence(
    without_people: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    platform = without_people
    deliver("1.csv", A, BAD, SHORT)
    ingest(platform, readings)
    sha = outcome(platform)["sha256"]
    found = look(platform, readings, sha, KEY.recipient, by="alice")
    assert (found.rows, found.shown) == (2, 2) and BAD.encode() not in base64.b64decode(found.sealed)
    told = opened(found.sealed)
    assert (told["pipeline"], told["delivery"], told["file"], told["of"]) == ("readings", sha, "1.csv", 2)
    assert told["header"] == "meter,day,kwh,people,tariff,note"
    assert told["rows"][0] == {"line": 3, "reason": "kwh out of range", "raw": BAD, "cut": False}
    with pytest.raises(Exception, match="was not encrypted for"):
        opened(found.sealed, age.new_identity())
    (record,) = platform.ledger.find("look")
    assert record.subject == "readings" and "alice" not in json.dumps(record.body)
    assert (record.body["delivery"], record.body["rows"], record.body["of"]) == (sha, 2, 2)
    assert "900" not in json.dumps(record.body)


def test_more_rows_than_are_shown_at_once_are_counted_and_long_ones_cut(
    without_people: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    platform = without_people
    deliver("1.csv", *[f"m{i},2026-01-01,900,1,base,{'x' * (9000 if i == 0 else 3)}" for i in range(MAX_ROWS + 50)])
    ingest(platform, readings)
    found = look(platform, readings, outcome(platform)["sha256"], KEY.recipient, by=None)
    rows = opened(found.sealed)["rows"]
    assert (found.rows, found.shown, len(rows)) == (MAX_ROWS + 50, MAX_ROWS, MAX_ROWS)
    assert rows[0]["cut"] and len(rows[0]["raw"]) == 4000 and not rows[1]["cut"]


def test_a_look_that_cannot_be_is_no_look(
    without_people: Platform, readings: Pipeline, deliver: Callable[..., None]
) -> None:
    platform = without_people
    deliver("1.csv", A, BAD)
    ingest(platform, readings)
    sha = outcome(platform)["sha256"]
    with pytest.raises(ConfigError, match="not an X25519 recipient"):
        look(platform, readings, sha, "age1nobody", by=None)
    platform.sites["primary"].delete("lake", landing.quarantine_key("readings", sha))
    with pytest.raises(IngestError, match="missing at site 'primary'"):
        look(platform, readings, sha, KEY.recipient, by=None)
    assert not platform.ledger.find("look")
    with pytest.raises(ObjectMissing):
        platform.sites["primary"].read("lake", landing.quarantine_key("readings", sha))


class ForwardOnly(io.BytesIO):
    """A stream as S3 gives it."""

    def seek(self, *given: int) -> int:
        raise io.UnsupportedOperation("seek")


def test_after_an_erasure_a_quarantine_is_read_without_going_back_in_a_stream(
    platform: Platform,
    readings: Pipeline,
    deliver: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    deliver("1.csv", A, BAD)
    ingest(platform, readings)
    site, nobody = platform.sites["primary"], Erased("readings", frozenset({"e"}), ((b"key", frozenset()),))
    monkeypatch.setattr(
        site, "open", lambda bucket, key, **more: contextlib.nullcontext(ForwardOnly(site.read(bucket, key)))
    )
    found = held(readings, site, "lake", outcome(platform)["sha256"], nobody, NOW.date(), tmp_path)
    assert [row.raw for row in found.rows] == [BAD]
