"""A lake with bookings at two sites in memory, and the erasure of one of them."""

from __future__ import annotations

import copy
import copyreg
import gzip
import json
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest

from rempart.flows.erasure import erase as flow
from rempart.flows.erasure.erase_report import ErasureResult
from tests.erasable import HEADER, ROWS, Lake, id_of, in_two_memories

VICTIM, OTHER = ROWS[3], ROWS[4]
WHO = id_of(VICTIM)
Content = TypeVar("Content")


def without_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The feature stores are servers: integration tests have them."""
    monkeypatch.setattr(flow, "reload_features", lambda *given: None)
    monkeypatch.setattr(flow, "_feature_rows", lambda *given: {})
    monkeypatch.setattr("rempart.flows.erasure.erase_stores.feature_databases", lambda platform: None)


def new_lake() -> Lake:
    """Two deliveries, the second of which has the booking again with another price; a training set; both sites."""
    made = in_two_memories()
    made.take_in("one", ROWS[:10])
    changed = VICTIM.split(",")
    changed[1] = "99.5"
    made.take_in("two", gzip.compress("\n".join([HEADER, ",".join(changed), *ROWS[10:14], ""]).encode()))
    assert made.site("primary").read(made.bucket, f"quarantine/hotel_bookings/{second(made)}.parquet")
    made.replicate()
    return made


def copied(made: Content) -> Content:
    """Return a lake, or a world, of its own with the same content, since ingestions take seconds."""
    with pytest.MonkeyPatch.context() as patched:
        for kind in (threading.Lock, threading.RLock):
            patched.setitem(copyreg.dispatch_table, type(kind()), partial(_new_lock, kind))
        return copy.deepcopy(made)


def _new_lock(kind: Callable[[], object], lock: object) -> tuple[Callable[[], object], tuple[()]]:
    """How a lock is copied: as a new one that nobody holds."""
    return kind, ()


def second(made: Lake) -> str:
    found = made.site("primary").list(made.bucket, "deliveries/hotel_bookings/")
    told = [json.loads(made.site("primary").read(made.bucket, info.key)) for info in found]
    return str(next(delivery["sha256"] for delivery in told if delivery["file"] == "two.csv"))


def erase(made: Lake, *bookings: int, **more: object) -> ErasureResult:
    given = {"by": "data-protection-officer", "reason": "objection", "dry_run": False, **more}
    return flow.erase(made.platform, made.pipeline, [(booking,) for booking in bookings], **given)  # type: ignore[arg-type]
