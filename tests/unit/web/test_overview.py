"""The verdict and the figures: a value that is unknown, late or shared never counts as good."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import DatabaseUnavailable, ObjectMissing
from rempart.models.gates import verdict
from rempart.models.gates.candidate_figures import CandidateFigures
from rempart.settings.pipeline import Gate
from rempart.web import facts, sources
from rempart.web.facts import CockpitFacts, Unknown
from rempart.web.read_models import overview
from rempart.web.read_models.models import champions
from rempart.web.read_models.points import explain, points
from tests.cockpit import GATE, NOW, POINT, Watched, apart


@pytest.fixture
def watched() -> Watched:
    return Watched().healthy()


def told(found: CockpitFacts) -> overview.Overview:
    return overview.overview(found, NOW)


def figure(found: overview.Overview, name: str) -> overview.Figure:
    return next(shown for shown in found.figures if shown.name == name)


def test_two_independent_sites_in_time_can_lose_one_and_it_is_said_what_it_costs(watched: Watched) -> None:
    verdict = told(apart(watched.facts())).verdict
    assert (verdict.state, verdict.cost_seconds) == ("good", 120.0)
    haven = next(site for site in verdict.sites if site.site == "haven")
    assert [message.code for message in haven.messages] == ["loss.points", "loss.replica"]


def test_the_shipped_trial_is_told_to_share_its_machine(watched: Watched) -> None:
    verdict = told(watched.facts()).verdict
    assert verdict.state == "warning"
    primary = next(site for site in verdict.sites if site.site == "primary")
    assert "loss.shared" in [message.code for message in primary.messages]


def test_a_replica_that_was_not_measured_lately_is_late(watched: Watched) -> None:
    late = Watched()
    late.replication(ago=timedelta(minutes=20))
    found = told(apart(late.facts()))
    assert found.lags[0].state == "bad" and found.verdict.state == "warning" and found.verdict.cost_seconds == 1200.0


def test_without_any_replication_on_record_nobody_says_yes() -> None:
    found = told(apart(Watched().facts()))
    assert (found.verdict.state, found.verdict.cost_seconds) == ("unknown", None)
    assert figure(found, "rpo").state == "unknown"
    assert figure(found, "restore_point").state == "bad"


@given(
    ledger=st.booleans(),
    active=st.booleans(),
    configured=st.booleans(),
    old=st.sampled_from([timedelta(), timedelta(minutes=4), timedelta(minutes=6), timedelta(days=1)]),
)
def test_what_a_source_does_not_tell_is_never_good(
    ledger: bool, active: bool, configured: bool, old: timedelta
) -> None:
    silent = {name: Unknown("no answer") for name, it in (("evidence", ledger), ("active", active)) if not it}
    silent |= {} if configured else {"config": Unknown("no answer")}
    found = overview.overview(apart(Watched().healthy().facts(at=NOW - old, **silent)), NOW)
    if silent or old > timedelta(minutes=5):
        assert found.verdict.state == "unknown"
    if not ledger:
        assert found.denials is None and found.champions is None
        assert {shown.state for shown in found.figures} == {"unknown"}
    if not active:
        assert all(place.state == "unknown" for place in found.places)


def test_a_source_that_fails_is_named_with_its_reason_and_the_others_are_shown(watched: Watched) -> None:
    class Silent:
        def find(self, kind: str, subject: str | None = None, *, limit: int = 0) -> list[object]:
            raise DatabaseUnavailable("find drill in the ledger (db:5432): no answer", "Look at it.")

    found = facts.known("the ledger", lambda: Silent().find("drill"))
    assert found == Unknown("find drill in the ledger (db:5432): no answer")
    secret = facts.known("the ledger", lambda: 1 / 0)
    assert isinstance(secret, Unknown) and "division" not in secret.why
    shown = told(watched.facts(evidence=found))
    assert shown.moment.unknown == {"ledger": "find drill in the ledger (db:5432): no answer"}
    assert [place.name for place in shown.places] == ["primary", "haven", "postgresql", "mlflow", "airflow"]


def test_a_figure_that_misses_its_objective_is_red() -> None:
    slow = Watched()
    slow.replication()
    slow.point(ago=timedelta(hours=2))
    slow.drill(ago=timedelta(days=9), rto_seconds=3600.0, ok=False)
    found = told(slow.facts())
    assert {shown.name: shown.state for shown in found.figures} == {
        "rpo": "bad",
        "restore_point": "bad",
        "rto": "bad",
        "drill": "bad",
    }


def test_an_inconsistent_point_does_not_count_as_the_newest() -> None:
    watched = Watched()
    watched.point("20260301T100000Z-aaaaaa", ago=timedelta(minutes=50))
    watched.point("20260301T115500Z-bbbbbb", ago=timedelta(minutes=5), dangling=["lake/x"])
    assert figure(told(watched.facts()), "restore_point").seconds == 3000.0
    states = {point.id: point.state for point in points(watched.facts(), NOW).points}
    assert states == {"20260301T115500Z-bbbbbb": "bad", "20260301T100000Z-aaaaaa": "warning"}


def test_what_was_pruned_is_gone_and_what_is_held_says_why(watched: Watched) -> None:
    watched.point("20260301T100000Z-aaaaaa", ago=timedelta(hours=2))
    watched.record("prune", "haven", {"state": "ended", "deleted": {"20260301T100000Z-aaaaaa": 7}})
    watched.record("hold", POINT, {"held": True, "role": "auditor", "why": "an inquiry"})
    found = points(watched.facts(), NOW)
    assert ([point.id for point in found.points], found.pruned) == ([POINT], 1)
    explained = explain(watched.facts(), POINT, NOW)
    assert explained and explained.point.hold == "an inquiry" and explained.drills[0].rto_seconds == 24.0
    assert explain(watched.facts(), "20260301T100000Z-aaaaaa", NOW) is None


def test_a_point_that_was_just_written_is_there_and_one_that_never_was_is_not(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, written = watched.facts(), "20260301T115900Z-cccccc"
    watched.point(written, ago=timedelta(minutes=1))
    fresh, asked = watched.facts(), []

    def newest(within: float) -> CockpitFacts:
        asked.append(within)
        return fresh if within <= sources.JUST_NOW else kept

    monkeypatch.setattr(sources, "newest", newest)
    monkeypatch.setattr(sources, "now", lambda: NOW)
    assert sources.point(POINT).point.id == POINT and len(asked) == 1, "what is known is shown at once"
    assert sources.point(written).point.id == written
    with pytest.raises(ObjectMissing, match="No restore point 20260301T000000Z-dddddd is on record"):
        sources.point("20260301T000000Z-dddddd")


def test_a_denial_is_open_until_the_same_is_allowed(watched: Watched) -> None:
    reasons = [{"ok": False, "rule": "policy.personal", "fact": "US"}, {"ok": True, "rule": "x", "fact": "y"}]
    body = {"allowed": False, "what": "data", "classification": "personal", "reasons": reasons}
    watched.record("denial", "site 'far'", body, timedelta(days=8))
    assert told(watched.facts()).denials == ()
    watched.record("denial", "site 'far'", body)
    assert [denial.reasons for denial in told(watched.facts()).denials or ()] == [("policy.personal: US",)]
    watched.record("decision", "site 'far'", body | {"allowed": True})
    assert told(watched.facts()).denials == ()
    watched.record("egress-denial", "example.com:443", {"host": "example.com", "rule": "hosts"})
    assert [denial.subject for denial in told(watched.facts()).denials or ()] == ["example.com:443"]


@given(
    value=st.floats(1, 60),
    base=st.floats(1, 60),
    overall=st.floats(1, 60),
    theirs=st.none() | st.floats(1, 60),
)
def test_the_margin_of_a_champion_is_positive_exactly_when_the_gate_passes_it(
    value: float, base: float, overall: float, theirs: float | None
) -> None:
    watched = Watched()
    champion = {"mae": theirs} if theirs is not None else None
    naive = {"mae": base, "overall_mae": overall}
    watched.promotion(mae=value, baselines=naive, champion_metrics=champion)
    rules = Gate(baseline_by=["x"], **GATE)
    passed = verdict.judge(CandidateFigures({"mae": value}, naive, champion), rules).passed
    found = champions(watched.facts())[0]
    assert found.bound is not None
    assert (value <= found.bound) == passed


def test_a_rolled_back_champion_is_the_one_before(watched: Watched) -> None:
    watched.promotion("2", 21.0)
    (before,) = (champion for champion in champions(watched.facts()) if champion.model == "hotel_bookings")
    watched.record("rollback", "hotel_bookings", {"champion": "1", "replaces": "2"}, -timedelta(minutes=7))
    (back,) = champions(watched.facts())
    assert back.version == "1" and back.seq < before.seq
    assert back.since == NOW + timedelta(minutes=7)


def test_s7_a_champion_whose_promotion_was_altered_is_shown_without_figures() -> None:
    """The page ended with an error: only the rollback names the version."""
    watched = Watched()
    watched.record("rollback", "hotel_bookings", {"champion": "1", "replaces": "2"})
    (back,) = champions(watched.facts())
    assert (back.version, back.state, back.metric, back.value) == ("1", "unknown", None, None)
    assert back.seq == watched.facts().of("rollback")[0].seq


def test_d8_a_point_without_the_store_that_a_champion_needs_is_red() -> None:
    lacks = {"store": "mlflow", "fact": "another database", "needed_by": []}
    watched = Watched().healthy()
    watched.point("20260301T115500Z-bbbbbb", ago=timedelta(minutes=5), not_held=[lacks])
    watched.drill("20260301T115500Z-bbbbbb", ago=timedelta(minutes=4))
    (idle, *_) = points(watched.facts(), NOW).points
    assert (idle.state, idle.not_held) == ("warning", ("mlflow: another database",))
    assert figure(told(watched.facts()), "restore_point").seconds == 300.0
    needed = lacks | {"needed_by": ["hotel_bookings version 1"]}
    watched = Watched()
    watched.replication()
    watched.point(not_held=[needed])
    watched.drill()
    assert points(watched.facts(), NOW).points[0].state == "bad"
    assert {shown_figure.name: shown_figure.state for shown_figure in told(watched.facts()).figures}[
        "restore_point"
    ] == "bad"
    watched = Watched()
    watched.point("20260301T113000Z-aaaaaa", ago=timedelta(minutes=30))
    watched.point(not_held=[needed])
    shown = figure(told(watched.facts()), "restore_point")
    assert shown.state == "bad" and shown.message.params["champions"] == "hotel_bookings version 1"
