"""Pipelines, quarantine and sites on the command line, from the facts of a platform in memory."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer

from rempart.cli import json_documents
from rempart.cli.views import delivery, names, pipelines, quarantine, site_list, text
from rempart.cli.views.refused_lines import RefusedLines
from rempart.cli.views.site_list import SiteEntry
from rempart.counts import size
from rempart.errors import DatabaseUnavailable, PipelineError
from rempart.flows.ingestion.deliver import PlannedFile
from rempart.flows.ingestion.deliver import State as DeliveryState
from rempart.ingestion.acceptance import HELD
from rempart.ingestion.reading import EMPTY
from rempart.settings import config
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline, Pipeline
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models import quarantine as quarantines
from rempart.web.read_models.messages import moment
from rempart.web.read_models.pipeline_states import PipelineState, pipeline_states
from tests.cockpit import DELIVERY, NOW, ROOT, RULES, Watched
from tests.unit.cli.test_models_view import MODEL, candidate, refusal

USE = f"To use the champion: `rempart model predict {MODEL} FILE`, or by HTTP: docs/how-to/serve-predictions.md"
CHANGE = "Then change features, trainer or gate in the pipeline file, and run the pipeline."


def snapshot(watched: Watched, name: str = "s1", rows: int = 17) -> None:
    counts = {"rows": rows, "deliveries": 1, "delivered": 20, "accepted": rows, "quarantined": 3}
    watched.record("snapshot", MODEL, {"snapshot": name, "previous": None, "site": "primary"} | counts)


def state(facts: CockpitFacts) -> PipelineState:
    return next(found for found in pipeline_states(facts, NOW) if found.name == MODEL)


def test_the_list_has_source_delivery_snapshot_champion_quarantine_and_schedule() -> None:
    watched = Watched()
    watched.delivery()
    snapshot(watched)
    candidate(watched, "1", snapshot="s1")
    watched.promotion("1")
    head, row = pipelines.listing([state(watched.facts())], "landing")
    assert [row[head.index(column) :].split("  ")[0] for column in pipelines.HEAD] == [
        "hotel_bookings",
        "landing/hotel_bookings/",
        "20 rows 2026-03-01 10:00 UTC",
        "s1 17 rows",
        "version 1",
        "3 rows",
        "0 4 * * *",
    ]


FAILED = "If its run failed, `rempart status` names it, and its log in Airflow why."


def test_the_next_step_is_the_first_that_is_not_done() -> None:
    watched, told = Watched(), list[tuple[str, str]]()

    def note() -> None:
        told.append((state(watched.facts()).next.sentence, state(watched.facts()).next.command))

    note()
    watched.delivery(outcome="refused", accepted=0)
    note()
    snapshot(watched)
    note()
    candidate(watched, "1", snapshot="s1")
    note()
    refusal(watched, "1", 30.0)
    note()
    watched.promotion("1")
    note()
    empty = {"outcome": "refused", "delivered": 0, "accepted": 0, "quarantined": 0, "fault": EMPTY}
    watched.delivery("ef" * 32, ago=timedelta(hours=1), **empty)
    note()
    watched.delivery("cd" * 32, outcome="held back")
    note()
    run = f"rempart pipeline run {MODEL} --follow"
    assert told == [
        ("Nothing was delivered yet.", f"rempart pipeline deliver {MODEL} FILE"),
        ("No row was accepted: look at the reasons.", f"rempart quarantine show {MODEL}"),
        ("No model was trained on the current snapshot.", run),
        (f"The gate did not judge version 1 yet. {FAILED}", run),
        (f"The gate refused version 1: read why. {CHANGE}", f"rempart model show {MODEL} 1"),
        ("Delivery abababababab was refused as a whole: look at the reasons.", f"rempart quarantine show {MODEL}"),
        (f"Nothing to do. Deliver the next file. {USE}", f"rempart pipeline deliver {MODEL} FILE"),
        ("A delivery is held back: decide about its rows, or leave it.", f"rempart quarantine show {MODEL}"),
    ]


def test_a_training_that_finds_the_same_version_on_a_newer_snapshot_is_no_step_to_do() -> None:
    """A delivery of open rows alone adds no example: the step was told again after each run."""
    watched = Watched()
    candidate(watched, "1", snapshot="s1", job_id="j1")
    watched.promotion("1")
    snapshot(watched)
    watched.record(
        "snapshot", MODEL, dict(watched.facts().of("snapshot")[0].body) | {"snapshot": "s2", "previous": "s1"}
    )
    assert state(watched.facts()).next.sentence == "No model was trained on the current snapshot."
    opening = {"held_out": "h", "examples": "e", "opening": 3, "why": "registration", "job_id": "j1", "versions": []}
    watched.record("opening", MODEL, opening)
    assert state(watched.facts()).next.sentence.startswith("Nothing to do. Deliver the next file.")


def test_a_delivery_refused_as_a_whole_is_told_where_no_model_is_trained() -> None:
    watched = Watched()
    snapshot(watched)
    watched.delivery(outcome="refused", accepted=0)
    facts = watched.facts()
    assert not isinstance(facts.pipelines, Unknown)
    learns = facts.pipelines[MODEL]
    assert isinstance(learns, ModelPipeline)
    plain = Pipeline.model_construct(**{field: getattr(learns, field) for field in Pipeline.model_fields})
    found = state(dataclasses.replace(facts, pipelines={MODEL: plain}))
    assert found.next.sentence == "Delivery abababababab was refused as a whole: look at the reasons."
    assert found.next.command == f"rempart quarantine show {MODEL}"


def test_show_counts_quarantine_by_rule_and_names_the_champions_bounds() -> None:
    watched = Watched()
    watched.delivery()
    snapshot(watched)
    watched.promotion("1")
    lines = list(pipelines.state_lines(state(watched.facts()), "landing"))
    assert f"        2 x {RULES[0]}" in lines and "        1 x too few fields" in lines
    assert "Snapshot: s1, 17 rows, 2026-03-01 12:00 UTC, at site 'primary'" in lines
    at = lines.index("Champion: version 1 since 2026-03-01 12:00 UTC: mae 22.4")
    assert lines[at + 1] == "  mae 22.4 is at most 25 (the limit); 31.92 (a baseline)"
    assert DELIVERY[:12] in "\n".join(lines)


def test_the_counts_of_a_delivery_add_up() -> None:
    watched = Watched()
    watched.delivery(accepted=13, repeated=4, replaced=2)
    head, row = pipelines.deliveries(state(watched.facts()).newest)
    columns = [
        row[head.index(column) :].split("  ")[0] for column in ("DELIVERED", "ACCEPTED", "REPEATED", "IN QUARANTINE")
    ]
    assert columns == ["20", "13", "4", "3"]
    assert row.endswith("accepted in part, 2 replaced older rows")


def test_the_good_rows_that_wait_are_counted_beside_the_reasons() -> None:
    watched = Watched()
    watched.delivery(outcome="held back", accepted=0, quarantined=20, reasons={HELD: 17, RULES[0]: 3})
    lines = list(pipelines.state_lines(state(watched.facts()), "landing"))
    at = lines.index("Quarantine: 20 rows wait there now, 1 delivery held back")
    assert lines[at + 1 : at + 3] == [f"        3 x {RULES[0]}", "       17 good rows held back with them"]


def test_a_silent_ledger_is_unknown_and_never_nothing() -> None:
    facts = Watched().facts(evidence=Unknown("PostgreSQL does not answer"))
    found = state(facts)
    told = "\n".join([*pipelines.listing([found], "landing"), *pipelines.unknown(moment(facts, NOW))])
    assert "UNKNOWN: ledger: PostgreSQL does not answer" in told and "rempart up" in told
    assert "none" not in told and told.count("unknown") == 4
    assert found.next.command == "rempart up"
    assert "Deliveries" not in "\n".join(pipelines.state_lines(found, "landing"))
    document = pipelines.as_json(found, "landing")
    assert {document[name] for name in ("deliveries", "quarantined", "held_back", "rules", "champion")} == {None}
    quality = quarantines.quality(facts, MODEL, NOW)
    assert quality and quarantine.as_json(quality, RefusedLines())["quarantined"] is None


def test_a_faulty_file_is_listed_with_its_fault() -> None:
    error = PipelineError("hotel_bookings.yaml: key: missing", "Add it.")
    found = state(Watched().facts(pipelines={MODEL: error}))
    assert list(pipelines.listing([found], "landing"))[-1] == f"{MODEL}: hotel_bookings.yaml: key: missing"
    assert found.next.command == f"rempart pipeline check {MODEL}"
    assert json.loads(json_documents.document(pipelines.as_json(found, "landing")))["error"]["hint"] == "Add it."


def test_a_description_is_one_line() -> None:
    found = dataclasses.replace(state(Watched().facts()), description="Prices\nNext: rm -r\x1b[2J\n")
    assert next(pipelines.state_lines(found, "landing")) == f"{MODEL}: Prices Next: rm -r\x1b[2J", "show escapes it"


def test_a_project_without_pipelines_is_told_how_to_begin() -> None:
    assert "rempart pipeline new" in next(pipelines.listing([], "landing"))


def test_the_document_of_a_pipeline_has_what_the_page_has() -> None:
    watched = Watched()
    watched.delivery()
    snapshot(watched)
    watched.promotion("1")
    found = json.loads(json_documents.document(pipelines.as_json(state(watched.facts()), "landing")))
    assert found["snapshot"] == {"id": "s1", "rows": 17, "at": NOW.isoformat(), "site": "primary"}
    assert found["rules"] == {RULES[0]: 2, "too few fields": 1} and found["champion"]["metrics"] == {"mae": 22.4}
    assert found["newest_deliveries"][0]["sha256"] == DELIVERY


def told_quarantine(watched: Watched) -> str:
    quality = quarantines.quality(watched.facts(), MODEL, NOW)
    assert quality
    return "\n".join(quarantine.lines(quality, f"http://airflow/rempart/data/{MODEL}", RefusedLines()))


def test_quarantine_is_counted_by_delivery_and_rule_and_tells_how_to_look_at_rows() -> None:
    watched = Watched()
    watched.delivery()
    told = told_quarantine(watched)
    assert told.startswith("hotel_bookings: 3 rows of 1 delivery wait in quarantine now")
    assert f"Delivery {DELIVERY}\n        2 x {RULES[0]}\n        1 x too few fields" in told
    assert f"open http://airflow/rempart/data/{MODEL}" in told and f"preview_quarantine_{MODEL}" in told
    assert "quarantine accept" not in told and f"run: rempart quarantine again {MODEL} {DELIVERY[:12]}" in told
    assert "rempart stack password airflow" in told and "OF ROWS counts the rows" in told
    assert "IN QUARANTINE counts rows that wait there now. A row that another delivery corrected stays counted" in told


def test_a_delivery_without_a_good_row_comes_with_both_remedies() -> None:
    watched = Watched()
    watched.delivery(outcome="refused", accepted=0, quarantined=20, reasons={RULES[0]: 20})
    told = told_quarantine(watched)
    assert "Deliver corrected rows as a new file" in told
    assert f"    rempart quarantine again {MODEL} {DELIVERY[:12]}" in told and "quarantine accept" not in told


def test_good_rows_of_a_held_back_delivery_come_with_the_command_that_accepts_them() -> None:
    watched = Watched()
    watched.delivery(outcome="held back", accepted=0, quarantined=20, reasons={HELD: 17, RULES[0]: 3})
    told = told_quarantine(watched)
    assert "17 good rows wait" in told and f"rempart quarantine again {MODEL} {DELIVERY[:12]}" in told


def test_an_empty_quarantine_says_so() -> None:
    assert told_quarantine(Watched()) == "hotel_bookings: no row waits in quarantine now (0 deliveries)"


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        (
            "hotel",
            ["hotel_bookings", "energy_use"],
            "Did you mean 'hotel_bookings'? Known: energy_use, hotel_bookings.",
        ),
        ("zzz", ["hotel_bookings"], "Known: hotel_bookings."),
        ("x", [], "Draft one."),
        ("x", [f"p{i:02}" for i in range(20)], "and 8 more."),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(name: str, known: list[str], told: str) -> None:
    assert names.hint(name, known, "Draft one.").endswith(told)


def test_an_unknown_name_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as end:
        names.pipeline("hotel", ["hotel_bookings"])
    assert end.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: there is no pipeline 'hotel'\n  What to do: Did you mean")


def test_a_pipeline_without_a_model_is_told_how_to_train_and_a_silent_ledger_is_no_unknown_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(names.UnknownName):
        names.model(MODEL, Watched().facts())
    assert "has no model yet" in (told := capsys.readouterr().err) and f"pipeline run {MODEL} --follow" in told
    with pytest.raises(DatabaseUnavailable):
        names.model(MODEL, Watched().facts(evidence=Unknown("down")))


def sites(watched: Watched, **silent: str) -> list[SiteEntry]:
    return site_list.entries(watched.facts(), {"primary": "s3.one:443", "haven": "s3.two:443"}, silent)


def test_sites_are_listed_with_role_lag_point_and_answer() -> None:
    watched = Watched()
    watched.replication(lag_seconds=30.0)
    watched.point()
    lines = list(site_list.lines(sites(watched, haven="http://x: ConnectError"), NOW))
    primary, haven = lines[1], lines[2]
    assert "active" in primary and "s3.one:443" in primary and " yes " in primary and primary.endswith("none")
    assert "replica of primary" in haven and " no " in haven and "2 min 30 s" in haven and "(15 min ago)" in haven
    assert lines[3].startswith("haven does not answer: http://x: ConnectError")


def test_a_lag_beyond_its_objective_is_late_and_one_that_was_never_measured_unknown() -> None:
    watched = Watched()
    assert " unknown " in list(site_list.lines(sites(watched), NOW))[2]
    watched.replication(lag_seconds=360_000.0)
    assert "LATE" in list(site_list.lines(sites(watched), NOW))[2]


@pytest.mark.parametrize(
    ("endpoint", "shown"), [("https://me:secret@s3.one:9000/x", "s3.one:9000"), ("http://[::1", ""), ("s3.one", "")]
)
def test_an_endpoint_is_shown_without_a_password_and_a_broken_one_is_no_traceback(
    endpoint: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site_list.host(endpoint) == shown

    def refused(url: str, verify: object) -> object:
        raise ConnectionRefusedError

    told = set(asked_of(platform_with(endpoint, monkeypatch), refused).values())
    assert None not in told and "secret" not in str(told)


def platform_with(endpoint: str | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    from rempart.flows.shared.platform import Platform

    def connections(name: str) -> Connection:
        extra = {"endpoint_url": endpoint} if endpoint else {}
        return Connection(name, "aws", "", None, "k", "s", "", extra)

    return Platform(config.load(ROOT / "rempart.yaml"), connections)


def asked_of(platform: Any, request: Callable[[str, object], object]) -> dict[str, str | None]:
    return site_list.ask(platform.config, platform.connections, platform.clock().date(), request)


def test_a_site_answers_if_it_gives_any_answer_and_else_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(url: str, verify: object) -> object:
        raise ConnectionRefusedError

    platform = platform_with("http://127.0.0.1:1", monkeypatch)
    asked = list[str]()
    assert set(asked_of(platform, lambda url, verify: asked.append(url)).values()) == {None}
    assert asked == ["http://127.0.0.1:1"] * len(platform.config.sites)
    assert set(asked_of(platform, refused).values()) == {"127.0.0.1:1: ConnectionRefusedError"}
    nowhere = asked_of(platform_with(None, monkeypatch), refused)
    assert all("has no endpoint" in str(why) for why in nowhere.values())


def test_status_names_a_silent_site_and_the_runbook_of_the_active_site() -> None:
    silent = {"primary": "127.0.0.1:1: ReadTimeout", "haven": "no answer within 10 s", "c": None}
    lines = list(site_list.silent_lines(silent, "primary"))
    assert len(lines) == 2
    assert lines[0].startswith("NO ANSWER from site 'primary', the active site") and "primary-is-gone.md" in lines[0]
    assert "rempart site doctor haven" in lines[1]


def test_a_site_that_never_ends_its_headers_is_silent_after_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    platform, over = platform_with("http://127.0.0.1:1", monkeypatch), threading.Event()
    found = site_list.ask(
        platform.config, platform.connections, platform.clock().date(), lambda url, verify: over.wait(60), at_most=0.05
    )
    over.set()
    assert set(found.values()) == {"no answer within 0 s"}


def test_a_site_that_the_policy_forbids_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = platform_with("https://127.0.0.1:1", monkeypatch)
    closed = {name: rule.model_copy(update={"jurisdictions": []}) for name, rule in platform.config.policy.items()}
    barred = dataclasses.replace(platform, config=platform.config.model_copy(update={"policy": closed}))
    asked = list[str]()
    found = asked_of(barred, lambda url, verify: asked.append(url))
    assert asked == [] and all("policy" in str(why) for why in found.values())


def test_a_site_that_may_hold_public_data_alone_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = platform_with("http://127.0.0.1:1", monkeypatch)
    policy = platform.config.policy
    closed = {n: r if n == "public" else r.model_copy(update={"jurisdictions": []}) for n, r in policy.items()}
    barred = dataclasses.replace(platform, config=platform.config.model_copy(update={"policy": closed}))
    assert set(asked_of(barred, lambda url, verify: None).values()) == {None}


def test_figures_and_times_are_short() -> None:
    spans = [text.span(seconds) for seconds in (None, 5, 65, 3600, 90_061)]
    assert spans == ["unknown", "5 s", "1 min 05 s", "1 h", "1 d 1 h"]
    assert [size(n) for n in (900, 1500, 2e6, 3e9, 4e12)] == ["900 B", "1.5 kB", "2.0 MB", "3.0 GB", "4.0 TB"]
    assert text.figures({"rmse": 2.0, "mae": None}, "mae") == "mae -, rmse 2"


def test_a_dry_run_tells_what_would_be_uploaded() -> None:
    files = [PlannedFile(Path(f"{n}.csv"), f"p/{n}.csv", 1500, "ab" * 32, state) for n, state in enumerate(STATES)]
    assert list(delivery.plan_lines(files)) == [
        "0.csv: 1.5 kB to upload to p/0.csv",
        "1.csv: waits already, with the same bytes",
        "2.csv: was ingested before, with the same bytes",
        "Nothing was uploaded. Leave out --dry-run to deliver.",
        f"{delivery.CHECKED} To judge all rows first, and store nothing: rempart pipeline try NAME FILE",
    ]


STATES: tuple[DeliveryState, ...] = ("new", "waiting", "ingested")
