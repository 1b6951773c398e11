"""What every reader yields: rows as text or typed columns, and the rows it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rempart.ingestion.reading import LINE, RAW, RefusedRow

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["LINE", "RAW", "RefusedRow", "TextRows"]


@dataclass(frozen=True)
class TextRows:
    """Some rows of a delivery.

    `table`: the schema's columns, each as text or with a type that `parsing.typed` knows, `LINE` and `RAW` (the row's
    text as received).
    """

    table: pa.Table
    refused: Sequence[RefusedRow] = field(default=())
