"""A fault of a pipeline file is told with what the key means, and where the page describes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rempart.errors import PipelineError
from rempart.settings import pipelines
from rempart.settings.config import project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.schema import described

SHIPPED = project_root() / "include" / "pipelines" / "hotel_bookings.yaml"
HEADINGS = set(
    re.findall(r"^## (\w+)$", (project_root() / "docs/reference/pipeline-file.md").read_text(), re.MULTILINE)
)


def refused(folder: Path, **changes: Any) -> PipelineError:
    data = yaml.safe_load(SHIPPED.read_text())
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(value, dict) and key in data else value
    (folder / "hotel_bookings.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(PipelineError) as error:
        pipelines.load(folder / "hotel_bookings.yaml")
    return error.value


def test_each_fault_has_the_meaning_of_its_key_and_the_hint_names_the_pages_sections(tmp_path: Path) -> None:
    error = refused(tmp_path, source={"dates": "YY", "delimter": ";"}, max_quarantined=3, classification="secret")
    assert "\n    dates: Form of dates, and of the date in a timestamp." in error.what
    assert "(did you mean delimiter?)\n    delimiter: Character between two values." in error.what
    assert "\n    max_quarantined: Share of refused rows above which" in error.what
    assert "schema.json" not in error.hint
    told = error.hint.split("docs/reference/pipeline-file.md ")[1]
    anchors = re.findall(r"#(\w+)", told)
    assert set(anchors) == {"source", "max_quarantined", "classification"} <= HEADINGS


def test_a_fault_that_spans_keys_and_a_misspelled_section_lead_to_their_sections(tmp_path: Path) -> None:
    assert refused(tmp_path, partition_by="arival_date").hint.endswith("pipeline-file.md #partition_by.")
    assert refused(tmp_path, trainr={}).hint.endswith("pipeline-file.md #trainer.")
    assert refused(tmp_path, unknowable=1).hint.endswith("pipeline-file.md.")


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        (("schema", "known", "known"), "Moment from which the column's value is known."),
        (("schema", "known"), None),
        (("source", "prefix"), "Prefix in the bucket under which deliveries arrive."),
        (("moments", "minus", "minus"), "Fixed time by which the moment is earlier, such as `2 days 3 hours`."),
        (("expectations", 0, "nothing"), None),
        ((), None),
    ],
)
def test_a_name_of_the_writers_own_is_no_key(path: tuple[str | int, ...], meaning: str | None) -> None:
    assert described(ModelPipeline, path) == meaning
