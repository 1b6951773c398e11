"""Which version stands beside the champion, and how it is measured on rows that neither learned from."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rempart.errors import ModelRefused, ObjectMissing
from rempart.flows.monitoring import challenger
from rempart.flows.monitoring.answered import Answered, Unseen
from rempart.flows.monitoring.challenger import Challenger
from rempart.ledger.memory import MemoryLedger
from rempart.models.predictions import PREDICTION
from rempart.settings.champions.serving import Serving
from tests.unit.training import stage

PIPELINE = stage.pipeline()
NAME = PIPELINE.name
ROWS = stage.table()


class Off:
    """A model that is off by a fixed amount."""

    target = None

    def __init__(self, by: float) -> None:
        self.by = by

    def predict(self, rows: pa.Table) -> pa.Table:
        signs = np.where(np.arange(rows.num_rows) % 2, 1, -1)
        return pa.table({PREDICTION: rows["price"].to_numpy() + self.by * signs})


def ledger(*records: tuple[Any, dict[str, Any]]) -> MemoryLedger:
    made = MemoryLedger()
    made.append("candidate", NAME, {"version": "1"})
    for kind, body in records:
        made.append(kind, NAME, body)
    return made


def standing(*records: tuple[Any, dict[str, Any]], champion: str = "1", pipeline: Any = PIPELINE) -> Any:
    found = challenger.find(ledger(*records), pipeline, champion)
    return found and (found[0].body["version"], found[1])


SECOND: tuple[Any, dict[str, Any]] = ("candidate", {"version": "2"})


def test_the_newest_candidate_stands_beside_the_champion_with_its_last_decision() -> None:
    assert standing() is None
    assert standing(SECOND) == ("2", "not judged")
    shadowing = PIPELINE.model_copy(update={"serving": Serving(shadow=True)})
    assert standing(SECOND, pipeline=shadowing) == ("2", "shadow")
    assert standing(SECOND, ("refusal", {"version": "2"}), pipeline=shadowing) == ("2", "refused")
    assert standing(SECOND, ("refusal", {"version": "2"}), ("approval", {"version": "2"})) == ("2", "awaits approval")
    assert standing(SECOND, ("rollback", {"champion": "1", "replaces": "2"})) == ("2", "rolled back")
    assert standing(SECOND, champion="2") is None  # the former champion is no challenger


def test_a_version_that_was_retired_or_removed_is_no_challenger() -> None:
    assert standing(SECOND, ("retirement", {"version": "2", "state": "began", "why": "unused"})) is None
    assert standing(SECOND, ("removal", {"what": "remove", "id": "x", "state": "ended"})) is None


def test_without_a_challenger_nothing_is_opened() -> None:
    nothing: Any = None
    assert challenger.opened(ledger(), nothing, PIPELINE, "1", nothing) is None


@pytest.mark.parametrize("stage_of_fault", ["_unseen", "load", "check_definitions"])
def test_a_challenger_that_cannot_be_opened_has_a_reason_and_raises_nothing(
    stage_of_fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Any:
        raise (ObjectMissing if stage_of_fault == "_unseen" else ModelRefused)("a file differs", "Roll back.")

    answers = {
        name: refused if name == stage_of_fault else lambda *_: None for name in ("_unseen", "check_definitions")
    }
    for name, answer in answers.items():
        monkeypatch.setattr(challenger, name, answer)
    site: Any = None
    load: Any = refused if stage_of_fault == "load" else lambda _: None
    found = challenger.opened(ledger(SECOND), site, PIPELINE, "1", load)
    assert found is not None and (found.version, found.model, found.why) == ("2", None, "a file differs")
    told = challenger.compare(PIPELINE, found, Answered(ROWS, Off(3.0).predict(ROWS)))
    assert (told.why, told.better, told.challenger) == ("a file differs", None, None)


def compared(by: float, begin: datetime.date = datetime.date(2026, 1, 1)) -> Any:
    model: Any = Off(by)
    window = Answered(ROWS, Off(3.0).predict(ROWS))
    return challenger.compare(PIPELINE, Challenger("2", "refused", model, Unseen(begin, learned=False)), window)


def test_both_are_measured_on_the_same_rows() -> None:
    better = compared(2.0)
    assert (better.champion, better.challenger, better.better) == (
        pytest.approx(3),
        pytest.approx(2),
        "challenger",
    )
    assert better.rows == ROWS.num_rows and better.difference == pytest.approx(-1)
    assert compared(4.0).better == "champion"


def test_rows_that_the_challenger_learned_from_do_not_count() -> None:
    july = datetime.date(2026, 7, 1)
    later = compared(2.0, july)
    assert later.rows == sum(day >= july for day in ROWS["arrival"].to_pylist()) < ROWS.num_rows
    few = compared(2.0, datetime.date(2026, 10, 20))
    assert few.challenger is None and "of neither's training" in few.why


def test_a_challenger_that_fails_on_the_rows_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise ModelRefused("the model ended", "Roll back.")

    monkeypatch.setattr(challenger, "answered", fails)
    assert (compared(2.0).why, compared(2.0).better) == ("the model ended", None)


def test_a_challenger_that_predicts_a_number_is_not_compared_where_the_file_has_classes_by_now() -> None:
    model: Any = Off(2.0)
    classes = stage.pipeline(task="classification")
    given = Challenger("2", "refused", model, Unseen(datetime.date(2026, 1, 1), learned=False))
    window = Answered(ROWS, Off(3.0).predict(ROWS))
    found = challenger.compare(classes, given, window)
    assert (found.why, found.better) == ("it knows other classes than the pipeline file", None)
