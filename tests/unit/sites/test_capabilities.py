"""An operation may rely on a site only for recently proven capabilities, and never on unknown ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.sites import capabilities
from rempart.sites.capabilities import (
    BY_NAME,
    CAPABILITIES,
    CLAIMED,
    VALID,
    CapabilityRecord,
    Outcome,
    Proof,
    Purpose,
    complete,
    from_json,
    missing,
    undecided,
)
from rempart.sites.probes import run  # noqa: F401 # it brings the probes of every module
from rempart.sites.probes.scratch import PROBES

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)


def record(**outcomes: Outcome) -> CapabilityRecord:
    found = {capability.name: "proven" for capability in CAPABILITIES} | {
        key.replace("_", " "): v for key, v in outcomes.items()
    }
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
    needed = {capability.name for capability in CAPABILITIES if purpose in capability.needed_by}
    assert bool(lacking) == any(outcomes.get(name) != "proven" for name in needed)
    for name in outcomes:
        fewer = complete(Proof(n, o, "seen") for n, o in outcomes.items() if n != name)
        assert set(lacking) <= {
            text.replace("not run", outcomes[name]) if text.startswith(f"{name}: ") else text
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


def test_the_report_says_who_needs_what_is_not_proven_and_what_is_done_without() -> None:
    lines = list(record(path_keys=CLAIMED, tags="absent", object_lock=CLAIMED).lines())
    told = "\n".join(lines)
    assert sum("->" in line for line in lines) == 3
    assert "claims it, does not do it object lock" in told
    assert "needed by: restore points, evidence -> no object counts as locked" in told
    assert "needed by: nobody -> such keys are reported and not copied" in told
    assert [line[:8] for line in lines[-4:]] == ["ok      ", "REFUSED ", "REFUSED ", "ok      "]
    refused = list(record(private="not run").lines())[-4]
    assert refused == "REFUSED  replication: private: not run"


def test_every_capability_is_needed_by_somebody_or_looked_up_by_who_goes_without() -> None:
    """A line of the report that changes nothing is noise."""
    package = Path(capabilities.__file__).parents[1]
    users = [file for file in package.rglob("*.py") if file.parent.name != "probes" and file.name != "capabilities.py"]
    source = "\n".join(file.read_text(encoding="utf-8") for file in users)
    looks_up = re.compile(r"""(?:outcome|_proven|needed\.add)\("([^"]+)"\)""")
    looked_up = set(looks_up.findall(source))
    assert not {capability.name for capability in CAPABILITIES if not capability.needed_by} - looked_up
    assert looked_up <= set(BY_NAME)


def test_every_capability_has_a_probe() -> None:
    assert PROBES.keys() == {capability.name for capability in CAPABILITIES}


def test_p9_what_was_not_tried_is_tried_again_and_what_is_lacking_is_not() -> None:
    assert undecided(record(private="not run"), "replication")
    assert not undecided(record(private="not run", etags="absent"), "replication"), "it is refused anyway"
    assert not undecided(record(tags="not run"), "replication"), "nobody needs it"
    assert not undecided(record(), "replication")


def test_p2_no_request_of_ours_deletes_many_objects_at_once() -> None:
    """Some operators want a Content-MD5 for DeleteObjects, which newer SDKs do not send."""
    package = Path(capabilities.__file__).parents[1]
    assert not [str(file) for file in package.rglob("*.py") if "delete_objects" in file.read_text(encoding="utf-8")]
