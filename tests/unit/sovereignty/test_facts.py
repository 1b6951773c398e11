"""Stale facts: every fact that is old, undated or dated in the future is reported, and no other."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rempart.cli import app
from rempart.settings import config
from rempart.settings.operators import Operator
from rempart.sovereignty.facts import StaleFact, dated_facts, in_use, stale, summaries

DAYS = st.dates(date(2000, 1, 1), date(2060, 1, 1))
AGES = st.integers(0, 4000).map(lambda days: timedelta(days=days))


def sourced(**more: Any) -> st.SearchStrategy[dict[str, Any]]:
    dates = st.one_of(st.none(), DAYS)
    fixed = {key: value if isinstance(value, st.SearchStrategy) else st.just(value) for key, value in more.items()}
    return st.fixed_dictionaries(fixed | {"as_of": dates})


SERVICES = sourced(
    runs_on=["one"],
    technology=st.lists(sourced(name="T", origin="open"), max_size=2),
    subprocessors=st.one_of(st.none(), st.lists(sourced(name="S", jurisdiction="DE"), max_size=2)),
    qualifications=st.lists(sourced(name="HDS", scope="all"), max_size=2),
)
OPERATORS = sourced(
    jurisdiction=sourced(value="FR"),
    owner_jurisdiction=sourced(value="FR"),
    regions=st.dictionaries(st.sampled_from(["r1", "r2"]), sourced(country="FR")),
    services=st.dictionaries(st.sampled_from(["s1", "s2"]), SERVICES),
).map(Operator.model_validate)


@given(OPERATORS, DAYS, AGES)
def test_exactly_the_old_the_undated_and_the_future_are_reported(
    operator: Operator, on: date, max_age: timedelta
) -> None:
    reported = {fact.path: fact for fact in stale({"one": operator}, on, max_age)}
    for path, as_of in dated_facts(operator):
        reliable = as_of is not None and on - max_age <= as_of <= on
        assert (path in reported) is not reliable, path
    assert all(fact.operator == "one" and (fact.age is None) == (fact.as_of is None) for fact in reported.values())


@given(OPERATORS, DAYS, AGES, AGES)
def test_a_longer_maximum_never_reports_more(
    operator: Operator, on: date, maximum: timedelta, other: timedelta
) -> None:
    short, long = sorted([maximum, other])
    assert set(stale({"x": operator}, on, long)) <= set(stale({"x": operator}, on, short))


@given(OPERATORS, DAYS, st.integers(0, 4000), AGES)
def test_what_is_old_today_is_old_tomorrow(operator: Operator, on: date, later: int, max_age: timedelta) -> None:
    old = {fact.path for fact in stale({"x": operator}, on, max_age) if fact.age is None or fact.age > 0}
    assert old <= {fact.path for fact in stale({"x": operator}, on + timedelta(days=later), max_age)}


@given(OPERATORS, DAYS)
def test_a_date_on_the_entry_counts_for_what_has_none(operator: Operator, on: date) -> None:
    dated = operator.model_copy(update={"as_of": on})
    undated = [fact for fact in stale({"x": dated}, on, timedelta(days=1)) if fact.as_of is None]
    assert undated == []


def test_the_paths_are_those_of_the_entry() -> None:
    entry = {
        "jurisdiction": "FR",
        "owner_jurisdiction": {"value": "FR", "as_of": "2026-01-01"},
        "services": {"object-storage": {"runs_on": "x", "qualifications": ["HDS"]}},
    }
    found = stale({"x": Operator.model_validate(entry)}, date(2026, 2, 1), timedelta(days=90))
    assert [fact.path for fact in found] == [
        "",
        "jurisdiction",
        "services.object-storage",
        "services.object-storage.qualifications.0",
    ]
    assert found[0] == StaleFact("x", "", None, None)


def test_one_line_for_each_operator_says_how_many_and_which() -> None:
    facts = [
        StaleFact("a", "regions.r1", date(2020, 1, 1), 2000),
        StaleFact("a", "", date(2019, 1, 1), 2365),
        StaleFact("b", "jurisdiction", None, None),
        StaleFact("b", "services.s", date(2099, 1, 1), -9999),
    ]
    line, other = summaries(facts, timedelta(days=365))
    assert line.startswith("operators.a: 2 older than 365 days (the oldest: the entry, 2019-01-01). Read")
    assert (
        "operators.b: 1 without a date (the first: jurisdiction); 1 dated in the future (the first: services.s" in other
    )


def test_operators_in_use_are_those_of_the_places_and_of_what_they_run_on() -> None:
    loaded = config.load()
    used = set(in_use(loaded))
    assert used == {
        name
        for place in loaded.places().values()
        for name in (place.operator, *loaded.operators[place.operator].services[place.service].runs_on)
    }
    assert used, "rempart.yaml places something somewhere"


def test_config_check_warns_on_stderr_and_succeeds(tmp_path: Path, monkeypatch: Any) -> None:
    root = config.project_root()
    text = (root / "rempart.yaml").read_text(encoding="utf-8")
    old = text.replace(
        "primary: {operator: trial-one, service: object-storage, region: local-1,",
        "primary: {operator: numspot, service: object-storage, region: eu-west-2,",
    )
    assert old != text
    (tmp_path / "rempart.yaml").write_text(old, encoding="utf-8")
    (tmp_path / "include").mkdir()
    for name in ("operators", "pipelines", "trainers"):
        (tmp_path / "include" / name).symlink_to(root / "include" / name)
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["config", "check"])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("warning: operators.")]
    old_facts = {line.split(":")[1].strip() for line in lines if "older than" in line}
    assert {"operators.numspot", "operators.outscale"} <= old_facts
    assert old_facts <= {f"operators.{name}" for name in in_use(config.load())}
