"""A draft asks about a column that alone almost determines the target, and about no other."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from rempart.ingestion.draft import draft_pipeline
from tests.unit.ingestion.drafts import folded

QUESTION = "alone almost determines"


def claims(rows: int = 300) -> dict[str, list[str]]:
    """Claims as an insurer exports them, by column: what they cost follows the reserve, and rooms only a little."""
    draw = random.Random(5)  # noqa: S311 - test data
    paid = [draw.lognormvariate(7, 1) for _ in range(rows)]
    late = [draw.random() < 0.1 for _ in range(rows)]
    return {
        "claim": [f"S{n:05}" for n in range(rows)],
        "declared": [f"{n % 28 + 1:02}/{n // 28 % 12 + 1:02}/2025" for n in range(rows)],
        "rooms": [str(round(amount / 900 + draw.uniform(0, 9))) for amount in paid],
        "reserve": [f"{round(amount * draw.uniform(0.9, 1.1) / 50) * 50},00" for amount in paid],
        "delay": [str(draw.randint(16, 90) if is_late else draw.randint(-5, 15)) for is_late in late],
        "state": [draw.choice(["late", "very late"]) if is_late else draw.choice("abc") for is_late in late],
        "called": [f"{n % 28 + 1:02}/01/2026" if is_late else "" for n, is_late in enumerate(late)],
        "region": [draw.choice(["nord", "sud", "est"]) for _ in range(rows)],
        "paid": [f"{amount:.2f}".replace(".", ",") for amount in paid],
        "is_late": ["yes" if is_late else "no" for is_late in late],
    }


def asked(folder: Path, columns: dict[str, list[str]], target: str) -> set[str]:
    file = folder / "claims.csv"
    lines = [";".join(columns), *(";".join(row) for row in zip(*columns.values(), strict=True))]
    file.write_text("\n".join([*lines, ""]))
    text = folded(draft_pipeline(file, target=target))
    found = [line for line in text.splitlines() if QUESTION in line]
    assert all(re.search(f"# CHECK: .*{QUESTION} {target}: is it known at `event`\\?", line) for line in found)
    return {line.split(":")[0].strip() for line in found}


def test_a_number_in_the_order_of_the_target_is_asked_about(tmp_path: Path) -> None:
    columns = claims()
    assert asked(tmp_path, columns, "paid") == {"reserve"}
    opposite = [f"{-float(cell.replace(',', '.')):.1f}".replace(".", ",") for cell in columns["paid"]]
    empty = ["" if n % 3 else cell for n, cell in enumerate(columns["reserve"])]
    assert asked(tmp_path, columns | {"rooms": opposite, "reserve": empty}, "paid") == {"rooms", "reserve"}


def test_two_values_that_tell_small_numbers_from_large_ones_are_asked_about(tmp_path: Path) -> None:
    columns = claims()
    flag = ["ja" if float(cell.replace(",", ".")) > 1000 else "nein" for cell in columns["paid"]]
    some = ["nein" if n % 5 == 0 else cell for n, cell in enumerate(flag)]
    found = asked(tmp_path, columns | {"is_dear": flag, "region": some}, "paid")
    assert found == {"reserve", "is_dear"}, "one that is wrong in some rows tells something, and not almost all"


def test_values_numbers_and_empty_cells_that_tell_the_class_are_asked_about(tmp_path: Path) -> None:
    assert asked(tmp_path, claims(), "is_late") == {"delay", "state", "called"}


@pytest.mark.parametrize("target", ["paid", "is_late"])
def test_without_a_leak_nothing_is_asked(tmp_path: Path, target: str) -> None:
    draw = random.Random(6)  # noqa: S311 - test data
    columns = {
        name: cells if name in ("claim", "declared", target) else draw.sample(cells, len(cells))
        for name, cells in claims().items()
    }
    assert asked(tmp_path, columns, target) == set()


def test_few_rows_tell_nothing(tmp_path: Path) -> None:
    assert asked(tmp_path, claims(19), "paid") == set()
    assert asked(tmp_path, claims(19), "is_late") == set()


def test_the_shipped_data_have_no_such_column() -> None:
    data = Path(__file__).parents[4] / "data"
    for file in ("hotel_bookings.csv.gz", "tutorial/bike_rentals.csv"):
        assert QUESTION not in draft_pipeline(data / file)
