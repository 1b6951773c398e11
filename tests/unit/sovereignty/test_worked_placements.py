"""The worked placements of docs/reference/placements.md: each decision and its rules, by the shipped catalogue."""

from __future__ import annotations

import pytest

from rempart.docsgen.placements import Worked, worked
from rempart.settings.config import project_root

CASES = worked(project_root())


@pytest.mark.parametrize("case", CASES, ids=[f"{number}: {case.shows}" for number, case in enumerate(CASES, 1)])
def test_the_decision_and_its_rules(case: Worked) -> None:
    decision = case.decision
    assert decision.allowed is case.expected, decision.explain()
    if decision.allowed:
        assert decision.against == ()
        assert set(case.rules) <= {reason.rule for reason in decision.in_favour}, decision.explain()
    else:
        assert {reason.rule for reason in decision.against} == set(case.rules), decision.explain()
        assert all(reason.remedy for reason in decision.against), "each denial says what to do"
    assert case.rules, "a case names what decided it"


def test_the_table_is_long_enough_and_holds_what_it_must() -> None:
    assert len(CASES) >= 40
    assert len({case.shows for case in CASES}) == len(CASES)
    allowed = sum(case.expected for case in CASES)
    assert 15 <= allowed <= len(CASES) - 15, "it shows both answers"
    places = {case.place.partition("/")[0] for case in CASES}
    assert {"aws", "ovhcloud", "s3ns", "bleu", "numspot", "exoscale"} <= places
