"""Parameters that several routes share, with their limits."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query
from pydantic import BeforeValidator, Field

Sequence = Annotated[int, Path(ge=1, le=2**53, description="A record's number.")]
PointId = Annotated[str, Path(pattern=r"^\d{8}T\d{6}Z-[0-9a-f]{6,16}$", description="A restore point's id.")]
Before = Annotated[
    Annotated[int, Field(ge=1, le=2**53)] | None,
    BeforeValidator(lambda given: None if given == "" else given),  # a browser sends an empty field as an empty text
    Query(description="Records with a smaller number than this."),
]
Kind = Annotated[str | None, Query(max_length=60, description="A kind of evidence, such as `drill`.")]
Subject = Annotated[str | None, Query(max_length=300, description="A subject, exactly as in the record.")]
PageNumber = Annotated[int, Query(ge=0, le=100_000, description="Number of the page, starting at 0.")]
