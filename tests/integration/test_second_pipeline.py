"""The how-to's second pipeline, from its one YAML file to a champion on real servers: it needs no other file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rempart.flows.ingestion.ingest import ingest
from rempart.flows.shared.platform import Platform
from rempart.flows.training.materialize import materialize
from rempart.flows.training.train import train
from rempart.flows.training.validate import validate
from rempart.ledger.memory import MemoryLedger
from rempart.models import registry
from rempart.models.tracking import session
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline

pytestmark = [pytest.mark.tracking, pytest.mark.full]
PAGE = (config.project_root() / "docs" / "how-to" / "pipeline-by-example.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The page's first fenced block in a language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def house(platform: Platform) -> Iterator[Platform]:
    """The stack, with a ledger of the test's own; the model is removed afterwards."""
    yield dataclasses.replace(platform, ledger_=MemoryLedger())
    with session(platform.tracking()) as client:
        if client.search_registered_models(filter_string="name = 'energy_use'"):
            client.delete_registered_model("energy_use")


def test_one_yaml_file_is_enough(house: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block("python"), "pipeline-by-example.md", "exec"), {"__name__": "page"})  # noqa: S102 - our own page
    pipeline = ModelPipeline.model_validate(yaml.safe_load(block("yaml")))
    site = house.active_site(pipeline.classification)
    delivery = (tmp_path / "energy_use.csv").read_bytes()
    site.write(house.config.buckets.landing, f"{pipeline.source.prefix}energy_use.csv", delivery)
    taken = ingest(house, pipeline)
    assert taken.delivered == taken.accepted + taken.quarantined == 2920
    made = materialize(house, pipeline)
    assert made.rows_online > 0
    loaded = house.ledger.find("materialization", pipeline.name)[0].body
    assert (loaded["snapshot"], loaded["rows_written"]) == (made.snapshot, made.rows_written)
    assert sum(view["entities"] for view in loaded["views"].values()) == made.rows_online
    assert max(view["newest"] for view in loaded["views"].values()) == made.to_time
    trained = train(house, pipeline)
    judged = validate(house, pipeline, trained.version)
    assert judged.promoted, judged.reasons
    assert registry.champion(house.tracking(), pipeline.name) == trained.version
