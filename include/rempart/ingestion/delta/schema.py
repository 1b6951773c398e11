"""Describe the columns of a snapshot as Delta Lake does."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rempart.ingestion.snapshots import SnapshotColumn

_TYPES: Mapping[str, Any] = {
    "integer": "long",
    "number": "double",
    "boolean": "boolean",
    "string": "string",
    "category": "string",
    "date": "date",
    "timestamp": "timestamp",  # an instant, in microseconds of UTC
    "array(number)": {"type": "array", "elementType": "double", "containsNull": True},
    "array(string)": {"type": "array", "elementType": "string", "containsNull": True},
}


def schema_string(columns: Mapping[str, SnapshotColumn]) -> str:
    """Return the table's schema as the JSON text of Delta's `schemaString`. Raises ValueError for an unknown type."""
    fields = [
        {"name": name, "type": _delta_type(column.type), "nullable": column.nullable, "metadata": {}}
        for name, column in columns.items()
    ]
    return json.dumps({"type": "struct", "fields": fields}, separators=(",", ":"))


def _delta_type(declared: str) -> Any:
    if re.fullmatch(r"decimal\(\d+,\d+\)", declared):
        return declared
    if declared not in _TYPES:
        raise ValueError(f"'{declared}' has no type in Delta Lake")
    return _TYPES[declared]
