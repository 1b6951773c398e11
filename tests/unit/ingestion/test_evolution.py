"""Earlier rows are read under a changed schema as it is declared, exactly, or the change is refused with its diff."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rempart.errors import IngestError
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.ingestion.rejudge import rejudge
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.ingestion.content.evolution import evolution
from rempart.ingestion.parsing.schema import SnapshotColumn, snapshot_columns
from rempart.ingestion.snapshots import Snapshot
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.conftest import READINGS

Sections = dict[str, Any]
BASE = "m1,2026-01-01,1,3,base,x"


def pipeline(**columns: Sections | None) -> ModelPipeline:
    """The readings with changed, added or (None) left out columns."""
    sections = yaml.safe_load(READINGS)
    for name, column in columns.items():
        if column is None:
            del sections["schema"][name]
        else:
            sections["schema"][name] = {"known": "read", **column}
    return ModelPipeline.model_validate(sections)


def current(platform: Platform) -> Snapshot:
    found = snapshots.current(platform.sites["primary"], "lake", "readings")
    assert found is not None
    return found


def rows(platform: Platform) -> list[Sections]:
    found: list[Sections] = snapshots.load_table(platform.sites["primary"], "lake", current(platform)).to_pylist()
    return found


def test_added_renamed_and_widened_columns_are_read_and_have_the_id_of_the_rows_that_they_make(
    platform: Platform, make_platform: Callable[[], Platform], deliver: Callable[..., None]
) -> None:
    deliver("1.csv", BASE)
    before = ingest(platform, pipeline()).snapshot
    changed = pipeline(
        people={"type": "number", "nullable": True},
        note=None,
        remark={"type": "string", "nullable": True, "renamed_from": "note"},
        roof={"type": "integer", "nullable": True},
    )
    header = "meter,day,kwh,people,tariff,remark,roof\n"
    deliver("2.csv", "m2,2026-01-02,2,2.5,base,y,7", header=header)
    after = ingest(platform, changed)
    assert after.snapshot != before
    assert [(r["people"], r["remark"], r["roof"]) for r in rows(platform)] == [(3.0, "x", None), (2.5, "y", 7)]
    fresh = make_platform()
    deliver("1.csv", f"{BASE},", "m2,2026-01-02,2,2.5,base,y,7", header=header, to=fresh)
    assert ingest(fresh, changed).snapshot == after.snapshot
    site = platform.sites["primary"]
    assert snapshots.load_table(site, "lake", snapshots.read(site, "lake", "readings", str(before))).num_rows == 1


def test_a_declared_change_makes_a_snapshot_also_if_nothing_waits_or_no_row_is_accepted(
    platform: Platform, make_platform: Callable[[], Platform], deliver: Callable[..., None]
) -> None:
    deliver("1.csv", BASE)
    before = ingest(platform, pipeline())
    renamed = pipeline(note=None, remark={"type": "string", "nullable": True, "renamed_from": "note"})
    after = ingest(platform, renamed)
    assert after.changed and current(platform).previous == before.snapshot
    assert [r["remark"] for r in rows(platform)] == ["x"]
    assert not ingest(platform, renamed).changed
    fresh = make_platform()
    deliver("1.csv", BASE, header="meter,day,kwh,people,tariff,remark\n", to=fresh)
    assert ingest(fresh, renamed).snapshot == after.snapshot
    deliver("2.csv", "m9,2026-01-02,-5,1,base,", header="meter,day,kwh,people,tariff,note\n")
    refused = ingest(
        platform,
        pipeline(
            note=None,
            remark={"type": "string", "nullable": True, "renamed_from": "note"},
            roof={"type": "integer", "nullable": True},
        ),
    )
    assert (refused.accepted, refused.changed, current(platform).columns["roof"].type) == (0, True, "integer")


def test_a_value_that_is_listed_no_more_is_refused_until_all_is_judged_anew(
    platform: Platform, deliver: Callable[..., None]
) -> None:
    deliver("1.csv", BASE, "m2,2026-01-01,2,3,night,")
    ingest(platform, pipeline())
    fewer = pipeline(tariff={"type": "category", "values": ["base"]})
    fewer = fewer.model_copy(update={"max_quarantined": 1.0})
    deliver("2.csv", "m3,2026-01-01,1,,base,")
    before = current(platform)
    with pytest.raises(IngestError, match="`values` does not list: tariff in 1 row") as error:
        ingest(platform, fewer)
    assert "rejudge readings" in error.value.hint and current(platform) == before
    assert (rejudge(platform, fewer).quarantined, ingest(platform, fewer).accepted) == (1, 1)
    assert [r["tariff"] for r in rows(platform)] == ["base", "base"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"roof": {"type": "integer"}}, r"\+ roof: integer, not nullable"),
        ({"note": None}, "- note, not declared as removed"),
        ({"note": None, "roof": {"type": "string", "nullable": True}}, r"- note, .*\(declared: \+ roof: string"),
        ({"kwh": {"type": "integer"}}, "kwh: number → integer"),
        ({"people": {"type": "string", "nullable": True}}, "people: integer → string"),
        ({"people": {"type": "decimal", "precision": 20, "scale": 2, "nullable": True}}, "integer → decimal.20,2."),
    ],
)
def test_an_undeclared_change_is_refused_with_its_difference_also_if_nothing_waits(
    platform: Platform, deliver: Callable[..., None], columns: dict[str, Sections | None], says: str
) -> None:
    deliver("1.csv", BASE)
    ingest(platform, pipeline())
    before = current(platform)
    with pytest.raises(IngestError, match=says) as error:
        ingest(platform, pipeline(**columns))
    assert "readings.yaml" in error.value.hint and current(platform) == before


@pytest.mark.parametrize(
    ("row", "columns", "says"),
    [
        (f"m1,2026-01-01,1,{2**53 + 1},base,x", {"people": {"type": "number", "nullable": True}}, "hold exactly"),
        (BASE, {"note": {"type": "category", "values": ["y"], "nullable": True}}, "`values` does not list"),
        ("m1,2026-01-01,1,,base,x", {"people": {"type": "integer"}}, "has empty values"),
    ],
)
def test_a_declared_change_that_a_value_does_not_survive_is_refused_and_quotes_nothing(
    platform: Platform, deliver: Callable[..., None], row: str, columns: dict[str, Sections | None], says: str
) -> None:
    deliver("1.csv", row)
    ingest(platform, pipeline())
    deliver("2.csv", "m2,2026-01-02,2,2,base,y")
    with pytest.raises(IngestError, match=says) as error:
        ingest(platform, pipeline(**columns))
    assert str(2**53 + 1) not in f"{error.value}{error.value.__cause__}"
    assert len(rows(platform)) == 1


def test_a_column_that_may_no_longer_be_empty_is_refused_until_the_rows_are_judged_again(
    platform: Platform, deliver: Callable[..., None]
) -> None:
    strict = pipeline(people={"type": "integer"})
    deliver("1.csv", BASE, "m2,2026-01-01,1,,base,x")
    ingest(platform, pipeline())
    with pytest.raises(IngestError, match="column 'people' has empty values") as error:
        ingest(platform, strict)
    assert "rempart pipeline rejudge readings" in error.value.hint
    assert rejudge(platform, strict).quarantined == 1
    ingest(platform, strict)
    assert [row["meter"] for row in rows(platform)] == ["m1"]


@pytest.mark.parametrize(
    ("had", "has", "changes", "faults"),
    [
        ("decimal(5,2)", {"type": "decimal", "precision": 8, "scale": 3}, ["kwh: decimal(5,2) → decimal(8,3)"], []),
        ("decimal(5,2)", {"type": "decimal", "precision": 5, "scale": 3}, [], ["kwh: decimal(5,2) → decimal(5,3)"]),
        ("integer", {"type": "decimal", "precision": 21, "scale": 2}, ["kwh: integer → decimal(21,2)"], []),
        ("date", {"type": "timestamp"}, [], ["kwh: date → timestamp"]),
    ],
)
def test_a_type_is_wider_if_it_holds_each_value(had: str, has: Sections, changes: list[str], faults: list[str]) -> None:
    sections = yaml.safe_load(READINGS)
    sections["schema"]["kwh"] = {"known": "read", **has}
    sections["prediction"]["target"] = "people"
    sections["schema"]["people"] = {"type": "integer", "known": "read"}
    sections["features"]["own"]["columns"] = ["tariff"]
    made = ModelPipeline.model_validate(sections)
    before = {name: dataclasses.replace(column) for name, column in snapshot_columns(made).items()}
    found = evolution(before | {"kwh": SnapshotColumn(had, False)}, made)
    assert (list(found.changes), list(found.faults)) == (changes, faults)


@pytest.mark.parametrize(
    ("columns", "removed", "says"),
    [
        ({"meter": {"type": "string", "renamed_from": "id"}}, [], "a key keeps its name"),
        ({"note": {"type": "string", "renamed_from": "kwh"}}, [], "'kwh' is still in the schema"),
        ({n: {"type": "string", "renamed_from": "old"} for n in ("note", "more")}, [], "the earlier name of two"),
        ({}, ["kwh"], "is not removed"),
    ],
)
def test_a_contradictory_declaration_is_refused_when_the_file_is_read(
    columns: dict[str, Sections | None], removed: list[str], says: str
) -> None:
    sections = pipeline().model_dump(by_alias=True, exclude_unset=True, mode="json")
    for name, column in columns.items():
        sections["schema"][name] = {"known": "read", **(column or {})}
    with pytest.raises(ValidationError, match=says):
        ModelPipeline.model_validate({**sections, "removed_columns": removed})
