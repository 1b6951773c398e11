"""Section `scoring` of a pipeline file: as documented, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from rempart.settings.champions.scoring import Scoring, has_new_rows
from rempart.settings.pipeline import ModelPipeline
from tests.unit.training import stage

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "score-a-table.md"


def with_keys(**keys: Any) -> ModelPipeline:
    return stage.pipeline("stay_prices", **keys)


def test_the_page_writes_a_valid_section() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    made = with_keys(**yaml.safe_load(block))
    assert made.scoring and made.scoring.from_ == "new_stays" and made.scoring.into
    assert made.scoring == Scoring.model_validate({"from": "new_stays", "into": made.scoring.into.model_dump()})
    assert has_new_rows(made.scoring, made.prediction, made.columns)


def test_a_time_needs_rows_without_a_target() -> None:
    with pytest.raises(ValidationError, match=r"schedules\.score: each row has its target, 'price'"):
        with_keys(schedules={"score": "0 4 * * *"}, scoring={})
    made = with_keys()
    assert not has_new_rows(made.scoring, made.prediction, made.columns)


@pytest.mark.parametrize("table", ["prices", "a.b.c", 'public."x"', "public.x; DROP TABLE y", "Public.x"])
def test_a_table_is_named_by_schema_and_name(table: str) -> None:
    with pytest.raises(ValidationError, match="String should match pattern"):
        with_keys(scoring={"into": {"connection": "sales_db", "table": table}})
