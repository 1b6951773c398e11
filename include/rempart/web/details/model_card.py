"""Serve the model card of a version, from the newest record of its facts: the API server reads no site."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Depends, HTTPException, Path, Request
from fastapi.responses import Response

from rempart.flows.training.explained.keep import kept
from rempart.models.card import facts
from rempart.models.card.facts import Card
from rempart.models.card.page import overall_error
from rempart.models.card.svg import groups_of
from rempart.models.explanations.figures import ErrorSegment
from rempart.web import sources
from rempart.web.details import card_charts
from rempart.web.details.rollback import ModelName
from rempart.web.rendering import render
from rempart.web.security.access import may, requires

Version = Annotated[str, Path(pattern=r"^[0-9]{1,9}$", description="A version of the model.")]
PATH = "/models/{model}/{version}/card"

router = APIRouter(include_in_schema=False)
api = APIRouter(prefix="/api")
READER = requires("read")


@dataclass(frozen=True)
class KeptCard:
    """A model card on record. `seq`, `at`: its record; `sha256`: of the page in the artifacts' bucket, under `key`.

    `overall`: error on all held-out rows; `segments`: those whose groups are told, time first.
    """

    seq: int
    at: datetime
    key: str
    sha256: str
    overall: float
    segments: tuple[ErrorSegment, ...]
    card: Card


@api.get(PATH, dependencies=[Depends(READER)])
def read_card(model: ModelName, version: Version) -> KeptCard:
    """Return the newest model card of a version."""
    record = kept(sources.ledger(), model, version)
    if record is None:
        raise HTTPException(404, f"Model {model} version {version} has no model card: it gets one when it is judged")
    card = facts.from_json(record.body["card"], f"record {record.seq}")
    told = card.explanations
    segments = tuple(groups_of((told.over_time, *told.segments))) if told else ()
    overall = overall_error(told) if told else 0.0
    return KeptCard(record.seq, record.at, str(record.body["key"]), str(record.body["sha256"]), overall, segments, card)


@router.get(PATH)
def show_card(request: Request, model: ModelName, version: Version, user: BaseUser = Depends(READER)) -> Response:  # noqa: B008 # FastAPI's way
    found = read_card(model, version)
    return render(
        request,
        "model-card",
        current="models",
        found=found,
        evidence=may(user, "read_evidence"),
        card_charts=card_charts,
    )
