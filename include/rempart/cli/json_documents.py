"""The option `--json`: one JSON document on standard output, and nothing else."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from rempart.cli import rendering
from rempart.deployment.setup.terminal import is_control

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def begin(as_json: bool) -> None:
    """Keep events off standard output if it is for a document."""
    if as_json:
        rendering.warnings_only()


def show(content: Any) -> None:
    """Print dataclasses, mappings and sequences as one document. Times are ISO 8601, durations are seconds."""
    typer.echo(document(content))


def document(content: Any) -> str:
    """Return one JSON document, in which control characters are escaped. Pure."""
    written = json.dumps(content, indent=2, default=_plain, ensure_ascii=False)
    return "".join(json.dumps(c)[1:-1] if c != "\n" and is_control(c) else c for c in written)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
