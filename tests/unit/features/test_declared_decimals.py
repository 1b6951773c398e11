"""Declared decimals in views of the row: the nearest float, and refused where they are known too late.

Trailing views of decimals that become known later are among the pipelines of test_aggregates.py.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rempart.features.in_memory import training_set
from rempart.settings.pipeline import ModelPipeline

DIGITS, PLACES = 15, 4


def bills(net_known: str = "issued", **own: Any) -> ModelPipeline:
    decimal = {"type": "decimal", "precision": DIGITS, "scale": PLACES}
    return ModelPipeline.model_validate(
        {
            "name": "bills",
            "classification": "internal",
            "source": {"prefix": "bills/"},
            "key": ["bill"],
            "moments": {"issued": {"column": "day"}, "booked": {"column": "booked_on"}},
            "partition_by": "day",
            "schema": {
                "bill": {"type": "integer", "known": "issued"},
                "day": {"type": "date", "known": "issued"},
                "booked_on": {"type": "date", "known": "booked", "nullable": True},
                "net": decimal | {"known": net_known, "nullable": True},
                "gross": decimal | {"known": "booked"},
            },
            "features": {"own": {"kind": "row", "at": "issued", "calendar": {"day": ["month"]}, **own}},
            "prediction": {"target": "gross", "task": "regression", "at": "issued"},
            "holdout": {"column": "day", "last": "1d"},
            "gate": {"metric": "mae", "limit": 1.0, "baseline_by": []},
        }
    )


@settings(max_examples=10, deadline=None)
@given(st.lists(st.none() | st.integers(-(10**DIGITS) + 1, 10**DIGITS - 1), min_size=1, max_size=8))
def test_a_decimal_of_fifteen_digits_is_the_nearest_float(numbers: list[int | None]) -> None:
    nets = [None if number is None else Decimal(number).scaleb(-PLACES) for number in numbers]
    kind, day = pa.decimal128(DIGITS, PLACES), [date(2026, 1, 1)] * len(nets)
    columns: dict[str, Any] = {"bill": list(range(len(nets))), "day": day, "booked_on": pa.array(day, pa.date32())}
    rows = pa.table(columns | {"net": pa.array(nets, kind), "gross": pa.array([Decimal(1)] * len(nets), kind)})
    made = training_set(bills(columns=["net"], expressions={"twice": "net * 2"}), rows).to_pylist()
    wanted = [None if net is None else float(net) for net in nets]
    assert [row["own__net"] for row in made] == wanted
    assert [row["own__twice"] for row in made] == [None if net is None else net * 2 for net in wanted]


@pytest.mark.parametrize(
    ("net_known", "own", "says"),
    [
        ("booked", {"columns": ["net"]}, "features.own: column 'net' is known only from 'booked'"),
        ("booked", {"expressions": {"half": "net / 2"}}, "expressions.half: column 'net' is known only from 'booked'"),
        ("issued", {"columns": ["gross"]}, "features.own: the target 'gross' cannot be a feature of the same row"),
        ("issued", {"expressions": {"tax": "gross - net"}}, "the target 'gross' cannot be in a feature"),
    ],
)
def test_a_decimal_that_is_known_later_is_no_feature_of_its_row(net_known: str, own: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        bills(net_known, **own)
    assert says in str(caught.value)
