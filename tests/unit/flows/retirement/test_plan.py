"""Which versions of a model are retired: never what serves, or may serve after a rollback or a restore."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ModelRefused
from rempart.flows.retirement.facts import Recorded, model_facts, recorded, uses
from rempart.flows.retirement.plan import ModelFacts, VersionFacts, champions_at, objects, plan
from rempart.flows.shared import retirements
from rempart.flows.training.champions import champion_times, succession
from rempart.ledger.memory import MemoryLedger
from rempart.ledger.port import Evidence
from rempart.models.removal import Registered
from rempart.settings.sections import Retention

START = datetime(2025, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
NAMES = [str(number) for number in range(1, 8)]


def decision(seq: int, at: datetime, version: str | None, champions: list[str]) -> Evidence | None:
    """A promotion, or with None a rollback, of the champions so far; None if there is nothing to roll back."""
    if version is not None:
        champions.append(version)
        return Evidence(seq, at, "promotion", "m", {"version": version})
    if len(champions) < 2:
        return None
    gone = champions.pop()
    return Evidence(seq, at, "rollback", "m", {"champion": champions[-1], "replaces": gone})


@st.composite
def histories(draw: st.DrawFn) -> ModelFacts:
    """Any history of a model: promotions and rollbacks, restore points, aliases, unknown versions, silent sites."""
    at, decisions, champions = START, list[Evidence](), list[str]()
    for seq, (version, days) in enumerate(
        draw(st.lists(st.tuples(st.none() | st.sampled_from(NAMES), st.integers(0, 300)), max_size=8)), 1
    ):
        at += days * DAY
        if made := decision(seq, at, version, champions):
            decisions.append(made)
    now = at + draw(st.integers(0, 900)) * DAY
    used = uses([], decisions)
    days = st.integers(0, (now - START).days)
    return ModelFacts(
        "m",
        now,
        after=draw(st.integers(0, 500)) * DAY,
        newest=draw(st.integers(1, 3)),
        versions=tuple(
            VersionFacts(
                name,
                max(used.get(name, START), START + draw(days) * DAY) if draw(st.integers(0, 9)) else None,
                tuple(draw(st.sampled_from([(), (), (), ("shadow",)]))),
            )
            for name in NAMES
        ),
        decisions=tuple(decisions),
        points={f"p{number}": START + days * DAY for number, days in enumerate(draw(st.lists(days, max_size=4)))},
        silent=draw(st.sampled_from([{}, {}, {"haven": "no answer"}])),
    )


def champions_by_hand(facts: ModelFacts, moment: datetime) -> set[str]:
    """The champion at a moment and the version before it, from the decisions until then."""
    return set(succession([made for made in facts.decisions if made.at <= moment])[-2:])


@given(histories(), st.none() | st.sampled_from(NAMES))
def test_what_serves_or_may_serve_again_is_never_retired(facts: ModelFacts, named: str | None) -> None:
    planned = plan(facts, named)
    needed = champions_by_hand(facts, facts.now)
    for started in facts.points.values():
        needed |= champions_by_hand(facts, started) | champions_by_hand(facts, started + timedelta(hours=1))
    unknown = {known.version for known in facts.versions if known.used is None or known.aliases}
    assert not planned.retire.keys() & (needed | unknown)
    assert not facts.silent or planned.refusals, "a site that did not answer may have a restore point"
    assert not planned.retire.keys() & planned.keep.keys()


@given(histories())
def test_by_the_rule_only_old_versions_go_and_each_version_has_its_reason(facts: ModelFacts) -> None:
    planned = plan(facts)
    used = {known.version: known.used for known in facts.versions}
    for version in planned.retire:
        last = used[version]
        assert last is not None and facts.now - last >= facts.after
        assert sum(int(name) > int(version) for name in NAMES) >= facts.newest
    assert planned.retire.keys() | planned.keep.keys() == set(NAMES)


@given(histories(), st.sampled_from(NAMES))
def test_a_named_version_is_retired_or_refused_with_the_reason(facts: ModelFacts, named: str) -> None:
    planned = plan(replace(facts, silent={}), named)
    assert (list(planned.retire) == [named]) is not bool(planned.refusals)
    assert planned.retire.keys() | planned.keep.keys() == {named}


@given(histories())
def test_each_moment_has_the_champion_that_the_decisions_gave_it(facts: ModelFacts) -> None:
    served = champion_times(facts.decisions)
    assert [time.until for time in served[:-1]] == [time.since for time in served[1:]]
    assert not served or served[-1].until is None
    moments = {made.at + timedelta(hours=1) for made in facts.decisions}
    for moment in moments:
        assert champions_at(served, moment, moment) == champions_by_hand(facts, moment)


def candidate(version: str, dataset: str, job: str = "") -> dict[str, object]:
    return {
        "version": version,
        "job_id": job or f"j{version}",
        "run_id": f"r{version}",
        "model_id": f"m-{version}",
        "dataset": {
            "bucket": "lake",
            "key": f"training/m/{dataset}.parquet",
            "sha256": dataset,
            "held_out": {"bucket": "lake", "key": f"training/m/{dataset}-h.parquet", "sha256": f"{dataset}-h"},
        },
    }


def test_what_another_version_shares_stays() -> None:
    folders = ["mlflow/1/models/m-1/artifacts/", "mlflow/1/r1/artifacts/"]
    goes = objects(candidate("1", "a"), [candidate("2", "b")], folders, {})
    assert goes.artifacts == ("jobs/j1/", *folders) and goes.training == (
        "training/m/a-h.parquet",
        "training/m/a.parquet",
    )
    assert objects(candidate("1", "a"), [candidate("2", "a")], folders, {}).training == ()
    assert "jobs/j/" in objects(candidate("1", "a", "j"), [candidate("2", "b", "j")], folders, {}).shared
    assert folders[0] in objects(candidate("1", "a"), [{**candidate("2", "b"), "model_id": "m-1"}], folders, {}).shared


def test_the_replacement_of_a_training_set_from_which_rows_were_erased_goes_too() -> None:
    rewritten = {("lake", "training/m/a.parquet"): ("training/m/a2.parquet", "a2")}
    goes = objects(candidate("1", "a"), [candidate("2", "b")], [], rewritten)
    assert goes.training == ("training/m/a-h.parquet", "training/m/a.parquet", "training/m/a2.parquet")


def test_evidence_tells_what_was_retired_and_what_has_begun() -> None:
    ledger = MemoryLedger(clock=lambda: START)
    for version in ("1", "2", "3"):
        ledger.append("candidate", "m", candidate(version, version))
    for version, state in (("1", "began"), ("2", "began"), ("1", "ended")):
        ledger.append("retirement", "m", retirements.body(version, state, why="unused"))  # type: ignore[arg-type]
    known = recorded(ledger, "m")
    assert (known.begun, known.retired) == ({"2"}, {"1"})
    rule = Retention(raw="1d", quarantine="1d", snapshots="1d")
    facts = model_facts("m", known, Registered(("2", "3", "4")), rule, {}, {}, START)
    assert facts.begun == ("2",) and facts.retired == ("1",)
    assert [(version.version, version.used) for version in facts.versions] == [("3", START), ("4", None)]
    back = model_facts("m", known, Registered(("1", "2", "3")), rule, {}, {}, START)
    assert back.begun == ("1", "2"), "a restore brought version 1 back: its retirement is completed again"
    assert "was retired before" in plan(facts, "1").refusals[0]
    assert "has no version 9" in plan(facts, "9").refusals[0]
    retirements.check_kept(ledger, "m", "3", "open")
    try:
        retirements.check_kept(ledger, "m", "1", "roll back")
    except ModelRefused as refused:
        assert "roll back: version 1 of model m was retired on 2025-01-01" in refused.what
    else:
        raise AssertionError("a retired version was taken for one that is kept")


def test_a_version_with_the_alias_of_the_champion_stays_although_its_promotion_was_altered() -> None:
    old = [Evidence(1, START, "candidate", "m", candidate(name, name)) for name in ("1", "2", "3")]
    decisions = (Evidence(2, START, "promotion", "m", {"version": "2"}),)
    bodies = {str(record.body["version"]): record.body for record in old}
    none = frozenset[str]()
    known = Recorded(bodies, decisions, uses(old, decisions), none, none, none)
    rule = Retention(raw="1d", quarantine="1d", snapshots="1d", models="1d", newest_models=1)
    aliases = {"1": ("champion", "shadow")}
    facts = model_facts("m", known, Registered(("1", "2", "3"), aliases=aliases), rule, {}, {}, START + 900 * DAY)
    planned = plan(facts)
    assert not planned.retire and not planned.refusals
    assert planned.keep["1"][0] == "MLflow's alias 'champion' is at it" and planned.keep["2"] == ("it is champion",)
    at_champion = replace(facts, versions=())
    assert plan(replace(at_champion, altered=7)).refusals[0].startswith("record 7 of the ledger was altered or deleted")


def test_a_retirement_of_which_the_first_record_is_gone_is_still_one() -> None:
    ended = Evidence(9, START, "retirement", "m", retirements.body("1", "ended", deleted=4))
    found = retirements.retirements([ended])["1"]
    assert found.ended is ended and "altered" in found.why


def test_a_pipeline_that_was_removed_begins_again_without_retired_versions() -> None:
    ledger = MemoryLedger()
    ledger.append("retirement", "m", retirements.body("1", "began", why="unused"))
    ledger.append("removal", "m", {"id": "a", "what": "remove", "state": "ended"})
    assert retirements.on_record(ledger, "m") == {}
