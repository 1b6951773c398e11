"""The form of materializations and comparisons in the ledger: counts and times alone, no key and no value. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rempart.features.freshness.comparison import ViewSkew
from rempart.features.freshness.judgement import ViewContent


def contents(views: Iterable[ViewContent]) -> dict[str, Any]:
    """Return the content of the online tables, by view."""
    return {
        each.view: {
            "entities": each.entities,
            "newest": each.newest.isoformat() if each.newest else None,
            "loaded_at": each.loaded_at.isoformat() if each.loaded_at else None,
        }
        for each in views
    }


def content_of(view: str, body: Mapping[str, Any]) -> ViewContent | None:
    """Return the content of a view in a record; None if the record does not name the view. Raises ValueError."""
    told = body["views"].get(view)
    if told is None:
        return None
    return ViewContent(view, int(told["entities"]), _time(told["newest"]), _time(told["loaded_at"]))


def _time(told: str | None) -> datetime | None:
    return None if told is None else datetime.fromisoformat(told)


def differences(views: Iterable[ViewSkew]) -> dict[str, Any]:
    """Return the result of a comparison, by view."""
    return {
        each.view: {
            "compared": each.compared,
            "different": each.entities,
            "differing": each.differing,
            "missing": each.missing,
            "extra": each.extra,
            "offline": each.offline,
            "online": each.online,
        }
        for each in views
    }
