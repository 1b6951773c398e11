"""The tabs on DAGs and runs: records that name their run, and the newest records of a DAG."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from rempart.ledger.port import Kind
from rempart.settings.config import load
from rempart.web.facts import Unknown
from rempart.web.read_models import runs
from rempart.web.read_models.runs import KINDS
from rempart.web.wording import LANGUAGES, Texts, texts_of
from tests import pods
from tests.cockpit import NOW, POINT, Watched

RUN = "manual__2026-03-01T12:00:00+00:00"
SNAPSHOT = {"snapshot": "0a1b", "site": "primary", "rows": 90, "delivered": 100, "accepted": 90, "quarantined": 10}


def by(dag: str, run: str = RUN, task: str = "ingest") -> dict[str, object]:
    return {"written_by": {"dag": dag, "run": run, "task": task}}


def topics(left: runs.RunRecords) -> dict[str, list[int]]:
    return {section.topic: [record.seq for record in section.records] for section in left.sections}


def test_a_run_shows_what_it_wrote_and_nothing_of_its_neighbours() -> None:
    watched = Watched().healthy()
    watched.record("snapshot", "hotel_bookings", SNAPSHOT | by("ingest_hotel_bookings", "scheduled__x"))
    ours = watched.record("snapshot", "hotel_bookings", SNAPSHOT | by("ingest_hotel_bookings"))
    watched.record("snapshot", "hotel_bookings", SNAPSHOT)
    left = runs.of_run(watched.facts(), "ingest_hotel_bookings", RUN, None, NOW)
    assert topics(left) == {"snapshot": [ours]} and left.pipeline == "hotel_bookings"
    assert not runs.of_run(watched.facts(), "ingest_hotel_bookings", RUN, "other", NOW).sections
    assert not runs.of_run(watched.facts(), "other", RUN, None, NOW).sections


def test_the_run_of_a_person_who_chose_its_id_is_found_by_the_digest() -> None:
    watched = Watched()
    watched.drill(**by("restore_drill", runs.run_name("my run"), "report"))
    assert topics(runs.of_run(watched.facts(), "restore_drill", "my run", "report", NOW)) == {"drill": [2]}


def test_a_dag_shows_the_newest_of_its_pipeline_pair_or_stage() -> None:
    watched = Watched().healthy()
    for i in range(8):
        watched.record("snapshot", "hotel_bookings", SNAPSHOT, ago=timedelta(minutes=i))
    facts = watched.facts()
    trained = topics(runs.of_dag(facts, "validate_model_hotel_bookings", NOW))
    assert len(trained["snapshot"]) == 5 and len(trained["gate"]) == 1 and "drill" not in trained
    assert list(topics(runs.of_dag(facts, "backup_platform", NOW))) == ["point"]
    assert list(topics(runs.of_dag(facts, "restore_drill", NOW))) == ["drill"]
    assert list(topics(runs.of_dag(facts, "replicate_primary_to_haven", NOW))) == ["replication"]
    assert runs.of_dag(facts, "somebody_elses", NOW).sections == ()


def test_of_the_same_decision_a_dag_shows_the_newest_alone_and_a_run_each() -> None:
    watched = Watched()
    asked = {"what": "data", "classification": "personal", "allowed": True, "place": "site 'primary'"}
    asked |= {"reasons": [{"rule": "policy.personal.jurisdictions", "ok": True, "fact": "FR is in EU", "remedy": ""}]}
    for _ in range(3):
        watched.record("decision", "site 'primary'", asked | by("ingest_hotel_bookings"))
    facts = watched.facts()
    assert topics(runs.of_dag(facts, "ingest_hotel_bookings", NOW)) == {"placement": [4]}
    shown = runs.of_run(facts, "ingest_hotel_bookings", RUN, None, NOW).sections[0].records
    assert len(shown) == 3 and shown[0].why == ("policy.personal.jurisdictions: FR is in EU",)
    assert Texts("en").message(shown[0].message) == "Allowed: data, personal."
    assert Texts("fr").message(shown[0].message).startswith("Autorisé : données, ")


def test_a_look_and_a_measurement_are_told_by_their_runs() -> None:
    watched = Watched()
    seen = {"delivery": "ab" * 32, "site": "primary", "rows": 2, "of": 3, "by": "user 1"}
    watched.record("look", "hotel_bookings", seen | by("preview_quarantine_hotel_bookings"))
    watched.usage("haven", locks={"backups": {"protects": "restore-points", "why": "refused"}}, **by("verify_replicas"))
    watched.delivery()
    facts = watched.facts()
    (look,) = runs.of_run(facts, "preview_quarantine_hotel_bookings", RUN, None, NOW).sections
    assert Texts("en").message(look.records[0].message) == (
        "user 1 looked at 2 of 3 quarantined rows of delivery abababababab."
    )
    (measured,) = runs.of_run(facts, "verify_replicas", RUN, None, NOW).sections
    assert (measured.records[0].state, measured.records[0].why) == ("unknown", ("refused",))
    (delivered,) = facts.of("deliveries")
    watched.record("acceptance", "hotel_bookings", {"lost": "0a1b", "shown": None, "site": "primary", "by": "user 1"})
    (lost,) = watched.facts().of("acceptance")
    assert "user 1 accepted the loss of snapshot 0a1b" in Texts("en").message(runs.summarize(lost).message)
    told = Texts("en").message(runs.summarize(delivered).message)
    assert told == "Deliveries: 1. 20 rows delivered, 17 accepted, 0 repeated, 3 to quarantine."


def test_states_are_those_of_the_records() -> None:
    watched = Watched()
    watched.record("refusal", "hotel_bookings", {"version": "2", "reasons": ["refused: mae 80.41 is above 25"]})
    watched.point(dangling=["lake/x"], databases={"airflow": "ab"})
    watched.drill(ok=False, checks=[{"what": "rows", "ok": False, "detail": "7 are missing"}])
    watched.record("snapshot", "hotel_bookings", {"rows": 1})
    facts = watched.facts()
    kinds: tuple[Kind, ...] = ("refusal", "restore-point", "drill", "snapshot")
    told = {record.kind: runs.summarize(record) for kind in kinds for record in facts.of(kind)}
    assert {kind: run.state for kind, run in told.items()} == {
        "refusal": "bad",
        "restore-point": "bad",
        "drill": "bad",
        "snapshot": "unknown",  # of another form than today's: never good
    }
    assert told["drill"].why == ("rows: 7 are missing",) and told["drill"].point == POINT
    assert told["snapshot"].message.code == "told.other"


def test_each_topic_and_each_kind_has_its_words() -> None:
    for language in LANGUAGES:
        texts = texts_of(language)
        assert not {f"topic.{topic}" for topic in KINDS} - texts.keys()
        assert not {f"told.{kind}" for kinds in KINDS.values() for kind in kinds} - texts.keys()


def test_the_tab_of_a_training_says_how_long_jobs_waited_for_each_pool(tmp_path: Path) -> None:
    watched = Watched().healthy()
    for number in range(25):  # the oldest five do not count
        ran = {"pool": "gpu-a", "waited": 2400 if number >= 5 else 9e9}
        watched.record("placement", "other 1", {"job_id": "1", "attempt": 1, "outcome": "succeeded", "ran": ran})
    facts = replace(watched.facts(), config=load(pods.project(tmp_path) / "rempart.yaml"))
    found = runs.of_dag(facts, "train_hotel_bookings", NOW).waits
    assert [Texts("en").message(message) for message in found] == [
        "pool gpu-a: about 40 min, from the last 20 jobs",
        "pool gpu-b: unknown, no job on record",
    ]
    assert Texts("fr").message(found[0]) == "pool gpu-a : environ 40 min, d’après les 20 derniers jobs"
    assert not runs.of_dag(facts, "ingest_hotel_bookings", NOW).waits
    assert not runs.of_dag(watched.facts(), "train_hotel_bookings", NOW).waits  # trains without a pool
    blind = replace(facts, evidence=Unknown("no answer"))
    assert "the ledger does not answer" in Texts("en").message(runs.of_dag(blind, "train_hotel_bookings", NOW).waits[0])
