"""Who may rely on a site: only on what was proven, lately, and never on what is not known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.sites.capabilities import (
    BY_NAME,
    CAPABILITIES,
    VALID,
    CapabilityRecord,
    Outcome,
    Proof,
    Purpose,
    complete,
    from_json,
    missing,
)

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def record(**outcomes: Outcome) -> CapabilityRecord:
    found = {one.name: "proven" for one in CAPABILITIES} | {key.replace("_", " "): v for key, v in outcomes.items()}
    return CapabilityRecord("haven", "https://s3", NOW, tuple(Proof(n, o, "seen") for n, o in found.items()))  # type: ignore[arg-type]


def test_a_site_of_which_everything_is_proven_may_be_used_for_everything() -> None:
    assert not any(missing(record(), purpose, NOW) for purpose in PURPOSES)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_site_that_was_never_probed_may_be_used_for_nothing(purpose: Purpose) -> None:
    assert missing(None, purpose, NOW) == ("it was never probed",)


def test_an_old_record_proves_nothing() -> None:
    assert not missing(record(), "replication", NOW + VALID)
    assert "30 days ago" in missing(record(), "replication", NOW + VALID + timedelta(seconds=1))[0]


@given(st.dictionaries(st.sampled_from(sorted(BY_NAME)), st.sampled_from(OUTCOMES)), st.sampled_from(PURPOSES))
def test_only_what_is_proven_counts_and_losing_a_proof_never_permits(
    outcomes: dict[str, Outcome], purpose: Purpose
) -> None:
    proofs = complete(Proof(name, outcome, "seen") for name, outcome in outcomes.items())
    found = CapabilityRecord("haven", "https://s3", NOW, proofs)
    lacking = missing(found, purpose, NOW)
    needed = {one.name for one in CAPABILITIES if purpose in one.needed_by}
    assert bool(lacking) == any(outcomes.get(name) != "proven" for name in needed)
    for name in outcomes:
        fewer = complete(Proof(n, o, "seen") for n, o in outcomes.items() if n != name)
        assert set(lacking) <= {
            text.replace("not run", outcomes[name]) if text.startswith(f"{name} is ") else text
            for text in missing(CapabilityRecord("haven", "https://s3", NOW, fewer), purpose, NOW)
        }


@given(st.dictionaries(st.sampled_from(sorted(BY_NAME)), st.sampled_from(OUTCOMES)))
def test_a_record_comes_back_from_its_json(outcomes: dict[str, Outcome]) -> None:
    proofs = complete(Proof(name, outcome, "seen") for name, outcome in outcomes.items())
    found = CapabilityRecord("haven", "https://s3", NOW, proofs, {"read MB/s": 3.5})
    assert from_json(found.as_json()) == found


@pytest.mark.parametrize("change", [{"proofs": [{"capability": "range", "outcome": "fine", "found": ""}]}, {"at": "x"}])
def test_what_is_no_record_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"outcome|Invalid"):
        from_json(record().as_json() | change)


def test_the_report_says_what_is_done_about_each_thing_that_is_not_proven() -> None:
    lines = list(record(path_keys="LIES", tags="absent").lines())
    assert sum("->" in line for line in lines) == 2
    assert lines[-4:] == [f"ok       {purpose}" for purpose in PURPOSES]
    refused = list(record(private="not run").lines())[-4]
    assert refused == "REFUSED  replication: private is not run"
