"""A draft takes the format, the order of the moments and the loss from what the rows show."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from rempart.flows.ingestion import deliver
from rempart.ingestion.draft import draft_pipeline
from rempart.settings.pipeline import ModelPipeline
from tests.unit.ingestion.test_draft import load, write


@pytest.mark.parametrize("ending", [".tsv", ".txt", ".TSV.gz"])
def test_a_file_of_text_with_another_ending_is_drafted_as_csv(tmp_path: Path, ending: str) -> None:
    text = "id\tlent\tfee\n" + "".join(f"{n}\t2025-01-{n:02}\t{n}.5\n" for n in range(1, 29))
    (file := tmp_path / f"loans{ending}").write_bytes(
        gzip.compress(text.encode()) if ending.endswith("gz") else text.encode()
    )
    pipeline = load(draft_pipeline(file))
    assert (pipeline.name, pipeline.source.format, pipeline.source.delimiter) == ("loans", "csv", "\t")
    assert deliver.file_fault(pipeline, file) is None


def test_moments_stand_in_the_order_that_the_dates_show(tmp_path: Path) -> None:
    rows = [f"{n},2025-02-{n % 28 + 1:02},2025-03-{n % 28 + 1:02},2025-01-{n % 28 + 1:02},{n % 9}.5" for n in range(99)]
    text = draft_pipeline(write(tmp_path / "loans.csv", "\n".join(["loan,lent,returned,member_since,fee", *rows])))
    drafted = text.split("\nmoments:")[1].split("\npartition_by")[0].splitlines()[1:]
    assert [line.strip() for line in drafted if "column: " in line] == [
        "# member_since: {column: member_since}",
        "event: {column: lent}",
        "# outcome: {column: lent}",
        "# returned: {column: returned}",
    ]


def test_a_skewed_target_is_learned_with_the_absolute_error(tmp_path: Path) -> None:
    def drafted(fees: Callable[[int], float]) -> ModelPipeline:
        rows = "".join(f"{n},2025-01-{n % 28 + 1:02},{n % 5},{fees(n)}\n" for n in range(90))
        return load(draft_pipeline(write(tmp_path / "loans.csv", f"loan,lent,days,fee\n{rows}"), target="fee"))

    assert drafted(lambda n: 1.5 ** (n % 20)).trainer.params["loss"] == "absolute_error"
    assert "loss" not in drafted(lambda n: 5.5 + n % 20).trainer.params
