"""Rows of a quarantine object."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rempart.ingestion import landing
from rempart.ingestion.reading import RefusedRow


def rows_of(body: bytes) -> list[RefusedRow]:
    """Return the rows; several reasons of one row are one text."""
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "stored"
        stored.write_bytes(body)
        return list(landing.read_refused(stored, Path(folder) / "rows"))
