"""Evidence of which pipelines use feature views of others: an erasure follows the values."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from rempart.ledger.port import Ledger
from rempart.settings.pipeline import ModelPipeline

USED = b"used"
"""Key in the schema of a training set, whose value is that of `told`."""


def told(snapshots: Mapping[str, str]) -> str:
    """Return snapshots of pipelines as one text, such as `guests/1f2e houses/3d4c`."""
    return " ".join(f"{name}/{snapshot}" for name, snapshot in snapshots.items())


def read(text: str) -> dict[str, str]:
    """Return the snapshots that `told` wrote."""
    return dict(named.split("/") for named in text.split())


def record(ledger: Ledger, pipeline: ModelPipeline) -> None:
    """Write evidence of the views that a pipeline uses, when that changed."""
    body = {"views": {name: view.from_ for name, view in pipeline.used_views().items()}}
    newest = ledger.find("used-views", pipeline.name, limit=1)
    if (dict(newest[0].body) if newest else {"views": {}}) != body:
        ledger.append("used-views", pipeline.name, body)


def users(ledger: Ledger) -> dict[str, dict[str, set[str]]]:
    """Return the pipelines that use views of others, or ever did: by view, the pipelines that gave its values."""
    found: dict[str, dict[str, set[str]]] = {}
    for entry in ledger.find("used-views"):
        for view, used in entry.body["views"].items():
            found.setdefault(entry.subject, {}).setdefault(view, set()).add(str(used).partition(".")[0])
    return dict(sorted(found.items()))


def sources(ledger: Ledger, names: Collection[str]) -> set[str]:
    """Return every pipeline of which these use views, or ever used one."""
    found = users(ledger)
    return set[str]().union(*(used for name in names for used in found.get(name, {}).values()))
