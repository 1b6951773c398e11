"""All deliveries judged anew after a rule changed: as if they arrived for the first time, and nothing is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.errors import IngestError, SiteUnavailable
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.reingest import take_in
from rempart.flows.ingestion.rejudge import plan, rejudge
from rempart.flows.shared.platform import Platform
from rempart.ingestion import deliveries, landing, snapshots
from rempart.settings.pipeline import ModelPipeline
from tests import quarantined
from tests.unit.ingestion.test_ingest_faults import CutOff
from tests.unit.ingestion.test_reingest import CutOffLedger, all_outcomes, allowing

A, B, C = "m1,2026-01-01,1,,base,", "m2,2026-01-01,50,3,night,x", "m3,2026-02-01,150,1,base,"
SHORT = "m6,2026-02-01"


def state(platform: Platform) -> tuple[str, dict[str, Any]]:
    """The id of the snapshot, and of each delivery the refused lines and their reasons."""
    site = platform.sites["primary"]
    current = snapshots.current(site, "lake", "readings")
    assert current is not None
    assert snapshots.load_table(site, "lake", current).num_rows == current.rows
    refused: dict[str, Any] = {}
    for found in all_outcomes(platform):
        keys = [info.key for info in site.list("lake", f"quarantine/readings/{found['sha256']}")]
        rows = [row for key in keys for row in quarantined.rows_of(site.read("lake", key))]
        assert len(keys) <= 1 and len(rows) == found["quarantined"] == found["delivered"] - deliveries.good(found)
        refused[found["file"]] = [(row.line, row.reasons) for row in rows]
    return current.id, refused


def test_a_stricter_rule_takes_rows_out_and_a_laxer_one_in(
    platform: Platform, readings: ModelPipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A, B, SHORT)
    deliver("2.csv", C, A)
    first = ingest(platform, readings)
    before = state(platform)
    planned = plan(platform, allowing(readings, 10))
    assert (planned.deliveries, planned.delivered, planned.leave, planned.join) == (2, 5, 1, 0)
    assert (planned.rows_before, planned.rows, planned.same) == (2, 1, False)
    assert planned.reasons["kwh out of range"] == (1, 2)
    assert "50" not in "\n".join(planned.lines()) and state(platform) == before
    strict = rejudge(platform, allowing(readings, 10))
    assert (strict.delivered, strict.accepted, strict.quarantined, strict.total_rows) == (5, 1, 4, 1)
    assert state(platform)[1]["1.csv"] == [(3, ("kwh out of range",)), (4, before[1]["1.csv"][0][1])]
    newest = platform.ledger.find("snapshot", "readings")[0].body
    assert (newest["rows"], newest["accepted"], newest["quarantined"]) == (1, -1, 1)
    assert newest["previous"] == first.snapshot
    lax = take_in(platform, allowing(readings, 200), "all")
    assert (lax.accepted, lax.total_rows) == (3, 3)
    assert take_in(platform, readings, "all").snapshot == first.snapshot and state(platform) == before
    assert not rejudge(platform, readings).changed and plan(platform, readings).same


def test_a_row_with_two_reasons_that_is_judged_alike_changes_nothing(
    platform: Platform, readings: ModelPipeline, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", A, "m9,x,5,,no,")
    assert ingest(platform, readings).quarantined == 1
    before = all_outcomes(platform)
    assert len(before[0]["reasons"]) == 2
    assert not rejudge(platform, readings).changed and all_outcomes(platform) == before


lines = st.lists(st.sampled_from([A, B, C, SHORT, "m1,2026-01-01,7,,base,", "m2,2026-01-01,150,3,night,x"]), min_size=1)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, min_size=1, max_size=3, unique_by=tuple), st.booleans(), st.sampled_from([10, 200]))
def test_it_is_as_if_all_arrived_for_the_first_time(
    make_platform: Callable[[], Platform],
    readings: ModelPipeline,
    deliver: Callable[..., None],
    bodies: list[list[str]],
    newest: bool,
    highest: int,
) -> None:
    pipeline = readings.model_copy(update={"on_conflict": "newest" if newest else "refuse"})
    made, fresh = make_platform(), make_platform()
    deliver("0.csv", A, to=made)
    deliver("0.csv", A, to=fresh)
    ingest(made, pipeline)
    ingest(fresh, allowing(pipeline, highest))
    for number, body in enumerate(bodies, 1):
        for platform in (made, fresh):
            deliver(f"{number}.csv", *body, to=platform)
        ingest(made, pipeline)
        ingest(fresh, allowing(pipeline, highest))
    rejudge(made, allowing(pipeline, highest))
    assert state(made) == state(fresh)


def test_cut_off_at_every_change_it_ends_as_if_never_cut(
    platform: Platform, readings: ModelPipeline, deliver: Callable[..., None]
) -> None:
    def run(site_left: int, ledger_left: int) -> tuple[Any, ...]:
        site, ledger = CutOff(), CutOffLedger()
        for bucket in ("landing", "lake"):
            site.ensure_bucket(bucket, versioned=True)
        made = replace(platform, sites={"primary": site}, ledger_=ledger)
        deliver("1.csv", A, B, to=made)
        deliver("2.csv", C, to=made)
        ingest(made, readings)
        site.left, ledger.left = site_left, ledger_left
        whole = False
        with contextlib.suppress(SiteUnavailable):
            rejudge(made, allowing(readings, 10))
            whole = True
        site.left = ledger.left = 10_000
        rejudge(made, allowing(readings, 10))
        records = [dict(record.body) for record in ledger.find("snapshot")]
        return whole, state(made), records

    _, *wanted = run(10_000, 10_000)
    cuts = 0
    for limits in (lambda step: (step, 10_000), lambda step: (10_000, step)):
        for step in range(30):
            whole, *found = run(*limits(step))
            assert found == wanted, f"cut off at {limits(step)}"
            if whole:
                break
            cuts += 1
    assert cuts >= 4


def changed(readings: ModelPipeline, **sections: Any) -> ModelPipeline:
    plain = readings.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return ModelPipeline.model_validate({**plain, "key": ["meter"], **sections})


def test_all_versions_can_be_kept_from_now_on_and_not_be_forgotten_again(
    platform: Platform, readings: ModelPipeline, deliver: Callable[..., None]
) -> None:
    newest = changed(readings, on_conflict="newest")
    for number, row in enumerate(("m1,2026-01-01,1,,base,", "m1,2026-01-05,2,,base,"), 1):
        deliver(f"{number}.csv", row)
        ingest(platform, newest)
    told = rejudge(platform, changed(readings, on_conflict="history", version_by="day"))
    assert (told.replaced, told.total_rows) == (0, 2)
    assert {found["file"]: found["replaced"] for found in all_outcomes(platform)} == {"1.csv": 0, "2.csv": 0}
    before = state(platform)
    for judge in (plan, rejudge):
        with pytest.raises(IngestError, match="several rows with one key"):
            judge(platform, newest)
    assert state(platform) == before


def test_what_cannot_be_judged_anew_is_refused_and_nothing_changes(
    platform: Platform, readings: ModelPipeline, deliver: Callable[..., None]
) -> None:
    with pytest.raises(IngestError, match="has no snapshot"):
        rejudge(platform, readings)
    deliver("1.csv", A, B)
    ingest(platform, readings)
    before = state(platform)
    with pytest.raises(IngestError, match="no row of 1 stored deliveries would be accepted"):
        rejudge(platform, allowing(readings, 0))
    with pytest.raises(IngestError, match="takes no `accept_quarantined`"):
        take_in(platform, readings, "all", accept=True)
    site = platform.sites["primary"]
    (found,) = deliveries.outcomes(site, "lake", "readings")
    raw = landing.raw_of(site, "lake", "readings", found["sha256"])
    assert raw is not None
    site.delete("lake", raw.key)
    with pytest.raises(IngestError, match="no longer stored"):
        plan(platform, allowing(readings, 10))
    assert state(platform) == before
