"""Extraction by a source that remembers rows, after the columns of the pipeline changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rempart.errors import IngestError
from rempart.flows.ingestion.extract import extract
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.ingestion.sources.sql import SqlExtraction
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.conftest import NOW
from tests.unit.ingestion.test_extract import Table, landed, source_of, table

__all__ = ["table"]


def test_changed_columns_do_not_send_known_rows_to_quarantine(
    platform: Platform, readings: ModelPipeline, table: Table
) -> None:
    def whole(pipeline: ModelPipeline) -> SqlExtraction:
        return replace(source_of(table, pipeline), overlap=None)

    def with_roof(**sections: Any) -> ModelPipeline:
        plain = readings.model_dump(by_alias=True, exclude_unset=True, mode="json")
        roof = {"type": "integer", "known": "read", "nullable": True}
        return ModelPipeline.model_validate({**plain, "schema": {**plain["schema"], "roof": roof}, **sections})

    extract(platform, readings, source=whole(readings))
    ingest(platform, readings)
    for meter in table.rows:
        table.put(meter, NOW, "2026-01-01,1,,base,,7")
    with pytest.raises(IngestError, match="its columns changed") as error:
        extract(platform, with_roof(), source=whole(with_roof()))
    assert "on_conflict: newest" in error.value.hint and not landed(platform)
    newest = with_roof(on_conflict="newest")
    extract(platform, newest, source=whole(newest))
    told = ingest(platform, newest)
    assert (told.accepted, told.replaced, told.quarantined) == (5, 5, 0)
    assert extract(platform, with_roof(), source=whole(with_roof())).deliveries == 0
