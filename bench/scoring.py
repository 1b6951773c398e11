"""Measure batch scoring beside a plain script with ONNX Runtime, on the same rows and the same model.

make bench BENCH=scoring                  # 1,000,000 rows
make bench BENCH=scoring ARGS=5000000     # rows

Each way runs in a process of its own. Ours is the whole run of `score_<pipeline>`, on a site in memory: it checks the
snapshot against its hash, makes features by SQL, predicts in a process apart, stores files and reads them back, and
writes the table. The script reads the same Parquet files, makes the same features by Arrow, encodes, predicts, and
writes Parquet. Rows are per second of CPU time, so that they are those of one core. The peak of memory is of all
processes; ours includes the bodies of the site in memory, whose bytes are told.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.measured_process import Run, measured
from bench.report import Row, write
from rempart.flows.prediction import score as flow
from rempart.flows.prediction.score import score
from rempart.ingestion import snapshots
from rempart.models.encoding import encode, features_of
from rempart.training.trainers import trainers
from tests.erasable import in_two_memories
from tests.snapshots_of_tables import Drawing
from tests.unit.flows.prediction import scored_stays
from tests.unit.training import stage

PIPELINE = stage.pipeline()
WINDOW = {"since": "2026-01-01", "until": "2027-01-01"}
_BATCH = 1 << 16
_DRAWN = 500_000
"""Rows that are drawn at once: NumPy's texts are large."""


def rows(count: int, first: int = 0) -> pa.Table:
    """Random stays, always the same."""
    dice = np.random.default_rng(first)
    rooms, seasons = np.array(["plain", "sea", "suite"]), np.array(["cheap", "fair", "dear"])
    return pa.table(
        {
            "stay_id": np.arange(first, first + count),
            "lead": dice.integers(0, 100, count),
            "nights": dice.integers(1, 9, count),
            "breakfast": dice.integers(0, 2, count) > 0,
            "room": rooms[dice.integers(0, 3, count)],
            "season": seasons[dice.integers(0, 3, count)],
            "agent": np.char.add("agent ", dice.integers(0, 500, count).astype(str)),
            "arrival": np.datetime64("2026-01-01") + dice.integers(0, 300, count),
            "price": dice.uniform(60, 200, count),
        }
    )


def prepare(folder: Path, count: int) -> None:
    """Write a snapshot's parts and its manifest, and the model."""
    made = pa.concat_tables([rows(min(_DRAWN, count - first), first) for first in range(0, count, _DRAWN)])
    drawn, added = Drawing(PIPELINE, folder).add(None, made)
    kept = folder / "parts"
    kept.mkdir()
    for part, file in added:
        file.rename(kept / f"{part.sha256}.parquet")
    (folder / "manifest.json").write_bytes(snapshots.manifest(drawn))
    table = stage.table(600)
    matrix = encode(features_of(PIPELINE), table)
    trained = trainers.train(
        "gradient_boosting", matrix, table["price"].to_numpy(), {"max_iter": 200}, 1, "regression", matrix, 0
    )
    (folder / "model.onnx").write_bytes(trained.body)


def ours(folder: Path) -> int:
    """Score the snapshot as the DAG does. Return the bytes of the site's objects."""
    platform = in_two_memories().platform
    site, bucket = platform.sites["primary"], platform.config.buckets.lake
    snapshot = snapshots.parse((folder / "manifest.json").read_bytes(), PIPELINE.name)
    snapshots.commit(
        site, bucket, snapshot, [(part, folder / "parts" / f"{part.sha256}.parquet") for part in snapshot.parts]
    )
    champion = scored_stays.champion_with((folder / "model.onnx").read_bytes())
    flow.champion_of = lambda platform, pipeline: champion
    result = score(platform, PIPELINE, **WINDOW)
    assert result.rows == snapshot.rows, result
    return sum(info.size for info in site.list(bucket))


def script(folder: Path) -> int:
    """Predict the same rows as a script does. Return 0."""
    import onnxruntime

    session = onnxruntime.InferenceSession((folder / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    features, out = features_of(PIPELINE), folder / "out.parquet"
    schema = pa.schema([("stay_id", pa.int64()), ("prediction", pa.float64())])
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for file in sorted((folder / "parts").iterdir()):
            for batch in pq.ParquetFile(file).iter_batches(_BATCH):
                given = pa.Table.from_batches([batch])
                made = {f"stay__{name}": given[name] for name in ("lead", "nights", "breakfast", "room")}
                table = pa.table({**made, "stay__arrival_month": pc.month(given["arrival"])})
                (figures, *_) = session.run(None, {session.get_inputs()[0].name: encode(features, table)})
                predicted = np.asarray(figures, np.float64).reshape(-1)
                writer.write_table(pa.table([given["stay_id"], predicted], schema=schema))
    return 0


def child(way: str, folder: Path) -> None:
    sys.stdout.buffer.write(str({"ours": ours, "script": script}[way](folder)).encode())


def timed(way: str, folder: Path) -> tuple[Run, int]:
    command = [sys.executable, "-m", "bench.scoring", way, str(folder)]
    run, output = measured(command, dict(os.environ), folder / f"{way}.log", proportional=True)
    return run, int(output.strip().splitlines()[-1])


def main(count: int = 1_000_000) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder, count)
        (mine, held), (theirs, _) = timed("ours", folder), timed("script", folder)
    peer: dict[str, Any] = {"peer_name": "script with ONNX Runtime"}
    write(
        "scoring",
        [
            Row("predicted", "rows per CPU second", count / mine.cpu, count / theirs.cpu, better_is="higher", **peer),
            Row("run", "s", mine.seconds, theirs.seconds, better_is="lower", **peer),
            Row("peak memory", "MB", mine.memory / 1e6, theirs.memory / 1e6, better_is="lower", **peer),
        ],
        entities=count,
        site_in_memory_bytes=held,
    )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("ours", "script"):
        child(sys.argv[1], Path(sys.argv[2]))
    else:
        main(*map(int, sys.argv[1:]))
