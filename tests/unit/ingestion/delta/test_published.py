"""Each committed snapshot becomes a version of the table, also after a kill; a damaged log stops no ingestion."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from rempart.errors import IngestError, SiteUnavailable
from rempart.flows.ingestion import delta_log
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.reingest import reingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.delta import log
from rempart.settings.pipeline import Pipeline
from tests.unit.ingestion.deliveries import BAD, A, B, C


def table(target: Platform) -> log.State:
    state, _ = delta_log.read(target.sites["primary"], "lake", "readings")
    now = snapshots.current(target.sites["primary"], "lake", "readings")
    assert now and set(state.files) == {part.key.removeprefix(log.root("readings")) for part in now.parts}
    return state


def killed(*given: object) -> None:
    raise KeyboardInterrupt


def test_a_run_publishes_its_snapshot_and_a_run_without_news_writes_nothing(
    platform: Platform,
    readings: Pipeline,
    deliver: Callable[..., None],
) -> None:
    assert ingest(platform, readings).table_fault is None  # no snapshot, no table
    for number, rows in enumerate(((A, BAD), (B, C))):
        deliver(f"{number}.csv", *rows)
        result = ingest(platform, readings)
        assert (result.table_fault, table(platform).version, table(platform).snapshot) == (
            None,
            number,
            result.snapshot,
        )
    before = list(platform.sites["primary"].versions("lake", log.folder("readings")))
    assert not ingest(platform, readings).changed
    assert before == list(platform.sites["primary"].versions("lake", log.folder("readings")))
    sha256 = next(d["sha256"] for d in platform.ledger.find("deliveries")[-1].body["deliveries"])
    again = reingest(platform, readings.model_copy(update={"expectations": []}), sha256)
    assert again.changed and again.table_fault is None and table(platform).snapshot == again.snapshot


@pytest.mark.parametrize("at", ["publish", "_write_checkpoint", "evidence"])
def test_what_a_kill_after_the_commit_left_out_is_published_by_the_next_run(
    platform: Platform,
    readings: Pipeline,
    deliver: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    at: str,
) -> None:
    deliver("0.csv", A)
    ingest(platform, readings)
    deliver("1.csv", B)
    with monkeypatch.context() as during, pytest.raises(KeyboardInterrupt):
        if at == "evidence":
            during.setattr("rempart.flows.ingestion.ingest_run.append_snapshot", killed)
        else:
            during.setattr("rempart.ingestion.delta.checkpoint.is_due", lambda *given: True)
            real, calls = getattr(delta_log, at), count()
            during.setattr(delta_log, at, lambda *given: killed() if next(calls) else real(*given))
        ingest(platform, readings)
    deliver("2.csv", C)
    result = ingest(platform, readings)
    assert result.changed and result.total_rows == 3
    assert table(platform).version == 2  # the snapshot of the killed run is a version as well


def test_a_damaged_log_is_reported_loses_no_snapshot_and_is_mended_by_its_remedy(
    platform: Platform,
    readings: Pipeline,
    deliver: Callable[..., None],
) -> None:
    site: Any = platform.sites["primary"]
    deliver("0.csv", A)
    ingest(platform, readings)
    site.write("lake", log.version_key("readings", 0), b"<Error/>")
    deliver("1.csv", B)
    result = ingest(platform, readings)
    assert result.changed and result.total_rows == 2 and not list(site.list("landing"))
    with pytest.raises(IngestError, match="committed, but its Delta table is behind: read the Delta log") as red:
        delta_log.check_table("readings", result.table_fault)
    assert "ingest_readings" in red.value.hint and "Delete every object under" in red.value.what
    assert ingest(platform, readings).table_fault  # and again, until somebody acts
    for info in list(site.list("lake", log.folder("readings"))):
        site.delete("lake", info.key)
    assert ingest(platform, readings).table_fault is None and table(platform).version == 0
    delta_log.check_table("readings", None)


def test_a_site_that_is_away_for_a_moment_fails_the_run_and_the_next_one_tells_its_outcome(
    platform: Platform,
    readings: Pipeline,
    deliver: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*given: object) -> None:
        raise SiteUnavailable("put: no answer", "Run again.")

    deliver("0.csv", A)
    with monkeypatch.context() as during, pytest.raises(SiteUnavailable):
        during.setattr(delta_log, "publish", away)
        ingest(platform, readings)
    result = ingest(platform, readings)
    assert result.changed and result.accepted == 1 and table(platform).snapshot == result.snapshot
