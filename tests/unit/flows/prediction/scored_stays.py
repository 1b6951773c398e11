"""Stays in a lake in memory, and a champion that was trained on others."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from rempart.features.prediction.plan import inputs_of, plan
from rempart.flows.ingestion import delta_log
from rempart.flows.ingestion.ingest import ingest
from rempart.flows.prediction import score as flow
from rempart.flows.prediction import scorings
from rempart.flows.prediction.champion import Champion
from rempart.flows.prediction.score import ScoreResult, score
from rempart.flows.shared.platform import Platform
from rempart.models.encoding import encode, features_of
from rempart.models.isolated_model import IsolatedModel
from rempart.models.loading import LoadedModel
from rempart.settings.pipeline import ModelPipeline
from rempart.sites.port import Site
from rempart.training.trainers import trainers
from tests.erasable import NOW, in_two_memories
from tests.unit.training import stage

NAME = "stays_test"


def stays(rows: int, seed: int = 1) -> pa.Table:
    """Rows as the source delivers them, every arrival in 2026."""
    table = stage.table(rows, seed)
    columns = {name.removeprefix("stay__"): table[name] for name in table.column_names if name != "event_timestamp"}
    del columns["arrival_month"]
    return pa.table(columns).select([*PIPELINE.columns])


PIPELINE = stage.pipeline()


@cache
def champion(version: str = "7") -> Champion:
    """A champion of its version: its SHA-256 is told apart by it."""
    table = stage.table(80)
    matrix, truth = encode(features_of(PIPELINE), table), table["price"].to_numpy()
    body = trainers.train("gradient_boosting", matrix, truth, {"max_iter": 3}, 1, "regression", matrix, 0).body
    return champion_with(body, version)


def champion_with(body: bytes, version: str = "7") -> Champion:
    """A champion with this model.onnx."""
    features = features_of(PIPELINE)
    inputs, sha256 = inputs_of(PIPELINE, [feature.name for feature in features]), f"{int(version):064x}"
    model = LoadedModel(NAME, version, "regression", None, features, inputs, sha256, IsolatedModel(body))
    return Champion(model, plan(PIPELINE, [feature.name for feature in features]), no_lookup, lambda: NOW)


def no_lookup(*_: Any) -> pa.Table:
    raise AssertionError("no view is trailing")


@dataclass
class Scored:
    """A platform whose clock goes on by a minute with each scoring."""

    platform: Platform
    pipeline: ModelPipeline = PIPELINE
    minutes: int = 0
    version: str = "7"
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def home(self) -> Site:
        return self.platform.sites["primary"]

    root: str = scorings.folder(NAME, NAME)

    def deliver(self, name: str, rows: pa.Table) -> str:
        sink = io.BytesIO()
        pyarrow.csv.write_csv(rows, sink)
        self.home.write("landing", f"{self.pipeline.source.prefix}{name}.csv", sink.getvalue())
        result = ingest(self.platform, self.pipeline)
        assert result.snapshot
        return result.snapshot

    def score(self, **window: Any) -> ScoreResult:
        self.minutes += 1
        later = replace(self.platform, clock=lambda: NOW + timedelta(minutes=self.minutes))
        return score(later, self.pipeline, **window)

    def all(self) -> list[scorings.Scoring]:
        return scorings.all_of(self.home, "lake", self.root)

    def rows(self, rows_of: str = NAME) -> pa.Table:
        """What a reader of the open table sees."""
        root = scorings.folder(rows_of, NAME)
        state, _ = delta_log.read(self.home, "lake", root)
        bodies = [self.home.read("lake", f"{root}{path}") for path in sorted(state.files)]
        found = pa.concat_tables([pq.read_table(io.BytesIO(body)) for body in bodies])
        return found.sort_by([("scored_at", "ascending"), ("stay_id", "ascending")])


def made(patch: pytest.MonkeyPatch) -> Scored:
    """A lake without rows. The champion is that of `version`."""
    world = Scored(in_two_memories().platform)
    patch.setattr(flow, "champion_of", lambda platform, pipeline: champion(world.version))
    patch.setattr(flow, "champion_version", lambda platform, name: world.version)
    return world
