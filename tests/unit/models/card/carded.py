"""A model card of made-up evidence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rempart.ledger.port import Evidence
from rempart.models.card import facts
from rempart.models.explanations.figures import (
    Dependence,
    ErrorGroup,
    ErrorSegment,
    Explanations,
    Importance,
    Point,
)

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INTENDED = facts.Intended(
    "Price per room and night of a booking",
    "revenue@hotel.example",
    "booking",
    "from 2017-06-01 of arrival_date",
    {"stay__lead": "column lead", "stay__room": "column room"},
)
PLACES = (
    facts.CardPlace("data", "site primary", "Trial One", "FR", "FR", "FR"),
    facts.CardPlace("training", "pool gpu", "", None, None, None),
)
EXPLAINED = Explanations(
    "mae",
    400,
    300,
    5,
    (),
    (Importance("stay__room", 30.5, 1.2), Importance("stay__lead", 8.25, 0.4)),
    (
        Dependence("stay__room", (Point("sea", (140.0,), (3.0,)), Point(None, (90.0,), (1.0,))), 1),
        Dependence("stay__lead", tuple(Point(float(at), (90.0 + at,), (2.0,)) for at in (5, 40, 80))),
    ),
    ErrorSegment(
        "month",
        (
            ErrorGroup("2017-06", 200, 21.0, 1.5, None, {"stay__room": 31.0}),
            ErrorGroup("2017-07", 200, 25.0, -2.0, None, {}),
        ),
        0,
    ),
    (
        ErrorSegment(
            "stay__room", (ErrorGroup("sea", 300, 20.0, 0.0, None, {}), ErrorGroup(None, 100, 32.0, 0.5, None, {})), 2
        ),
    ),
)


def record(seq: int, kind: Any, body: dict[str, Any], subject: str = "stays") -> Evidence:
    return Evidence(seq, AT + timedelta(minutes=seq), kind, subject, body)


def candidate(**changes: Any) -> Evidence:
    feature = {"type": "number", "values": [], "definition": "ab" * 8}
    body: dict[str, Any] = {
        "name": "stays",
        "version": "3",
        "job_id": "0a0b0c0d0a0b0c0d",
        "run_id": "run1",
        "model_id": "m-1",
        "files": {"model.onnx": "cd" * 32},
        "outputs": {},
        "dataset": {
            "sha256": "11" * 32,
            "held_out": {"sha256": "22" * 32},
            "rows_train": 9000,
            "rows_holdout": 400,
        },
        "snapshot": "s1",
        "labels": None,
        "used": {},
        "task": "regression",
        "target": {"name": "price", "type": "number", "values": [], "definition": ""},
        "features": [
            {"name": "stay__room", "type": "category", "values": ["sea", "Erika Mustermann"], "definition": "cd" * 8},
            {"name": "stay__lead", **feature},
            {"name": "stay__gone", **feature},
        ],
        "metrics": {"mae": 22.4, "rmse": 30.0, "train_mae": 11.0},
        "trainer": {"use": "gradient_boosting", "params": {"max_iter": 60}, "seed": 7},
        "code_version": "1+ab",
        "classification": "personal",
        "placement": None,
        "made_with": {"scikit-learn": "1.8.0"},
    }
    return record(2, "candidate", body | changes)


PROMOTED = record(
    5,
    "promotion",
    {
        "version": "3",
        "metrics": {"mae": 22.5, "rmse": 30.5},
        "baselines": {"mae": 39.9, "overall_mae": 81.0},
        "champion_metrics": {"mae": 23.0},
        "reasons": ["passed: mae 22.5 is at most 25 (the limit)"],
    },
)


def card(**changes: Any) -> facts.Card:
    given: dict[str, Any] = {
        "candidate": candidate(),
        "decisions": [PROMOTED],
        "standing": "champion",
        "watched": [],
        "explanations": EXPLAINED,
        "intended": INTENDED,
        "places": PLACES,
    }
    return facts.card(**(given | changes))


def kept(**changes: Any) -> dict[str, Any]:
    """The body of a card's record."""
    place = {"version": "3", "key": "jobs/0a/model-card-0a.html", "sha256": "ee" * 32}
    return place | {"card": facts.as_json(card(**changes))}
