"""The log that the scorer writes before it answers: a journal for each pipeline, sealed with the key of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from rempart.errors import ServingError
from rempart.flows.prediction_log import keys
from rempart.serving.entries import PredictionGroup
from rempart.serving.journal import Journal
from rempart.settings.pipeline import ModelPipeline


class ServedLogs:
    """The journals of the pipelines that are served, below a folder of this machine. It is used in one event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Journal] = {}
        self._former: list[Journal] = []

    def follow(self, pipelines: Mapping[str, ModelPipeline], sealed_with: Mapping[str, Sequence[str]]) -> None:
        """Open the journals of these pipelines as their files say. Raises ServingError if a folder cannot be made.

        `sealed_with`: name and public half of each pipeline's key. Without a key that it needs, a pipeline has no log.
        """
        for name, pipeline in pipelines.items():
            key, journal = sealed_with.get(name), self._open.get(name)
            keys.make_folder(pipeline, self._folder / name)
            if keys.is_sealed(pipeline) and key is None:
                if journal is not None:  # its key was destroyed
                    self._former.append(self._open.pop(name))
                continue
            sealing = keys.sealing(*key) if key else None
            if journal is None:
                self._open[name] = Journal(self._folder / name, sealing, pipeline.serving.log.sample)
            else:
                journal.sealing, journal.sample = sealing, pipeline.serving.log.sample

    async def write(self, group: PredictionGroup) -> None:
        """Return once the sampled predictions are on disk. Raises ServingError, also for a pipeline without a log."""
        journal = self._open.get(group.public.pipeline)
        if journal is None:
            name = group.public.pipeline
            raise ServingError(
                f"log a prediction of '{name}': the key that seals its log is missing",
                f"Run the DAG ship_predictions, or `rempart users client NAME --pipelines {name}`: both make it.",
            )
        await journal.write(group)

    async def close(self) -> None:
        """Release every journal."""
        await asyncio.gather(*(journal.close() for journal in (*self._open.values(), *self._former)))
