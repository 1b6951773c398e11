"""What to do about a header that does not fit: a column by a new name is mapped, and nothing is left empty for it."""

from __future__ import annotations

import pytest
import yaml

from rempart.flows.ingestion.header_faults import HeaderFault, header_fault, remedy
from rempart.settings.pipeline import Pipeline

CONTRACTS = Pipeline.model_validate(
    {
        "name": "contracts",
        "description": "Contracts",
        "classification": "internal",
        "source": {"prefix": "contracts/", "header": {"Abschlag (€)": "deposit", "Beginn": "started"}},
        "key": ["contract"],
        "moments": {"start": {"column": "started"}},
        "partition_by": "started",
        "schema": {
            "contract": {"type": "string", "known": "start"},
            "started": {"type": "date", "known": "start"},
            "deposit": {"type": "number", "known": "start", "nullable": True},
            "note": {"type": "string", "known": "start", "nullable": True},
        },
    }
)
FITTING = ["contract", "Beginn", "Abschlag (€)", "note"]


def told(*headers: list[str]) -> str:
    faults = [header_fault("new.csv", header, CONTRACTS) for header in headers]
    return remedy(CONTRACTS, [fault for fault in faults if fault])


@pytest.mark.parametrize(
    ("lacking", "given", "column"),
    [("Abschlag (€)", "Monatlicher Betrag", "deposit"), ("note", "remarks", "note")],
)
def test_a_column_by_a_new_name_is_told_as_the_entry_that_maps_it(lacking: str, given: str, column: str) -> None:
    header = [given if name == lacking else name for name in FITTING]
    remedy = told(header, header)
    assert f"If '{given}' is the new name of '{lacking}'" in remedy and "ingest the files that wait" in remedy
    entry = remedy.split(", then add ")[1].split(" in `source.header`")[0].split(", in place of")[0]
    assert yaml.safe_load(entry) == {given: column}
    names = {name: of for name, of in CONTRACTS.source.header.items() if of != column} | yaml.safe_load(entry)
    mapped = CONTRACTS.model_copy(update={"source": CONTRACTS.source.model_copy(update={"header": names})})
    assert header_fault("new.csv", header, mapped) is None


def test_a_column_that_has_its_own_name_again_needs_no_entry() -> None:
    header = ["contract", "started_at", "deposit", "note"]
    assert "new name" not in told(header)  # two columns are lacking: nobody knows which is which
    fault = HeaderFault("new.csv", ("Abschlag (€)",), ("deposit",))
    assert "then delete its entry in `source.header`" in remedy(CONTRACTS, [fault])


def test_other_faults_propose_no_new_name() -> None:
    assert "new name" not in told(FITTING[:3])
    assert "new name" not in told([*FITTING, "more"]) and "`more: {type: ..." in told([*FITTING, "more"])
    other = ["contract", "Beginn", "Abschlag (€)", "remarks"]
    assert "new name" not in told(other, ["contract", "Beginn", "note", "amount"])
