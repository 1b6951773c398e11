"""The servers of the bench `serving`, each a process of its own: the scorer, and stock Feast behind FastAPI."""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.serving_load import KEY
from rempart.features.databases import FeatureDatabases
from rempart.settings.config import Connection
from rempart.settings.pipeline import ModelPipeline

NAME = "hotel_bookings"
_DATABASES = "databases.json"


def plain_pipeline() -> ModelPipeline:
    """Hotel bookings with the row view alone."""
    from rempart.settings.pipelines import named

    pipeline = named(NAME)
    assert isinstance(pipeline, ModelPipeline)
    return pipeline.model_copy(update={"features": {"booking": pipeline.features["booking"]}})


def keep_databases(folder: Path, databases: FeatureDatabases) -> None:
    """Write the connections for the servers, into a folder that only this user reads."""
    parts = (databases.registry, databases.offline, databases.online)
    (folder / _DATABASES).write_text(json.dumps([asdict(each) for each in parts], default=dict))


def _databases(folder: Path) -> FeatureDatabases:
    return FeatureDatabases(*(Connection(**each) for each in json.loads((folder / _DATABASES).read_text())))


async def scorer(folder: Path, port: int, options: list[str]) -> None:
    """Serve the model as `rempart run scorer` does, with a key and a sealed log."""
    from rempart.backup.keys import age
    from rempart.features.prediction.plan import inputs_of
    from rempart.flows.prediction_log import keys
    from rempart.flows.serving.answering import AnsweringVersion
    from rempart.flows.serving.stored_features import StoredFeatures
    from rempart.models.encoding import features_of
    from rempart.models.isolated_model import IsolatedModel
    from rempart.models.loading import LoadedModel
    from rempart.serving.journal import Journal
    from rempart.serving.scorer import http_server
    from rempart.serving.scorer.app import Scorer
    from rempart.serving.scorer.clients import Client, Clients, digest
    from rempart.serving.scorer.deployments import Deployment, Deployments

    pipeline = plain_pipeline()
    features, inputs = features_of(pipeline), inputs_of(pipeline, pipeline.model_inputs())
    model = IsolatedModel((folder / "model.onnx").read_bytes())
    loaded = LoadedModel(NAME, "1", "regression", None, features, inputs, "0" * 64, model)
    stored = StoredFeatures(lambda: _databases(folder).online, pipeline)
    version = AnsweringVersion(loaded, pipeline, stored, lambda: datetime.now(UTC))
    clients = Clients()
    clients.replace([Client("bench", digest(KEY), (NAME,), 1_000_000)])
    log = folder / f"log-{port}"
    log.mkdir()
    journal = Journal(log, keys.sealing("bench", age.new_identity().recipient))
    found = Scorer(Deployments(champions=(NAME,)), clients, journal, "bench", "0")
    found.deployments.replace(NAME, Deployment(version))
    tls = (folder / "mail.pem", folder / "mail.key") if "tls" in options else None
    profile = cProfile.Profile()
    if "profile" in options:
        profile.enable()
    await http_server.server(found.application(), "127.0.0.1", port, tls).serve()
    if "profile" in options:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
    await found.deployments.finish()
    await journal.close()


def feast(folder: Path, port: int) -> None:
    """Serve the model with what a team has at hand: FastAPI, Feast's own PostgreSQL online store, onnxruntime."""
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI

    from rempart.features import repository
    from rempart.models.encoding import RowEncoder, features_of

    pipeline = plain_pipeline()
    features = features_of(pipeline)
    names = [feature.name.partition("__")[2] for feature in features]
    wanted = [f"booking:{name}" for name in names]
    session = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    encoder, given, app = RowEncoder(features), session.get_inputs()[0].name, FastAPI()
    with repository.feature_store(_databases(folder), pipeline, "postgres") as store:

        @app.post("/predict")
        async def predict(body: dict[str, Any]) -> dict[str, Any]:
            found = store.get_online_features(wanted, body["keys"]).to_dict()
            rows = list(zip(*(found[name] for name in names), strict=True))
            (predicted, *_) = session.run(None, {given: encoder.matrix(rows)})
            return {"predictions": predicted.reshape(-1).tolist()}

        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    which, where, at, *told = sys.argv[1:]
    if which == "feast":
        feast(Path(where), int(at))
    else:
        import uvloop

        uvloop.run(scorer(Path(where), int(at), told))
