"""Labels that arrive in a feed of their own: which rows are examples, by brute force, and what the check refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rempart.errors import LabelsMissing, PipelineError
from rempart.features import in_memory
from rempart.features.label_feed import LabelCounts, feed_of, target_column, told
from rempart.flows.removal import facts
from rempart.flows.removal.plan import PipelineContents, plan
from rempart.flows.training import check_pipeline
from rempart.flows.training.labelled import split
from rempart.flows.training.train import target_feature, without_late
from rempart.settings import pipelines
from tests.derived_project import write_project
from tests.labelled_project import ORDERS, PAYMENTS, order, order_rows, orders, payment, received, spec

START = 31.0
"""Days after the first one at which the hold-out begins."""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_project(tmp_path, ORDERS, PAYMENTS, sql={})
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    return tmp_path


DAYS = st.integers(0, 240).map(lambda quarter: quarter / 4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ordered=st.lists(DAYS, min_size=1, max_size=12),
    settled=st.dictionaries(st.integers(0, 15), st.tuples(DAYS, st.booleans()), max_size=12),
    as_of=DAYS,
)
def test_only_rows_whose_label_came_after_their_moment_are_examples(
    ordered: list[float], settled: dict[int, tuple[float, bool]], as_of: float
) -> None:
    rows = order_rows(order(number, day) for number, day in enumerate(ordered))
    labels = received([payment(number, day, paid=paid) for number, (day, paid) in settled.items()], as_of)
    wanted, counts = {}, dict.fromkeys(LabelCounts.__dataclass_fields__, 0)
    for number, day in enumerate(ordered):
        at, paid = settled.get(number, (None, None))
        state = (
            "missing" if at is None else "not_yet" if at > as_of else "too_early" if at <= day else "labelled"
        )  # fmt: skip
        counts[state] += 1
        if state == "labelled":
            wanted[number] = (paid, day)
    if not wanted:
        with pytest.raises(
            LabelsMissing, match=f"{counts['missing']:,} not used, none was" if counts["missing"] else ""
        ):
            in_memory.build(orders(), rows, labels)
        return
    made = in_memory.build(orders(), rows, labels)
    assert made.labels is not None and made.labels.rows == LabelCounts(**counts)
    assert {row["order_id"]: row["paid"] for row in made.table.to_pylist()} == {n: p for n, (p, _) in wanted.items()}
    assert sum(counts.values()) == len(ordered)
    learnable = without_late(orders(), made.table)
    late = {n for n, (_, day) in wanted.items() if day < START and settled[n][0] > START}
    assert {row["order_id"] for row in learnable.to_pylist()} == wanted.keys() - late


def build(payments: list[dict[str, Any]], as_of: float = 300.0) -> dict[int, Any]:
    rows = order_rows([order(1, 0), order(2, 1), order(3, 2)])
    made = in_memory.build(orders(), rows, received(payments, as_of)).table.to_pylist()
    return {row["order_id"]: row["paid"] for row in made}


def test_a_label_that_arrives_later_makes_one_more_example_and_a_corrected_one_changes_it() -> None:
    first = [payment(1, 5)]
    assert build(first) == {1: True}
    assert build([*first, payment(2, 20, paid=False)]) == {1: True, 2: False}
    assert build([payment(1, 9, paid=False)]) == {1: False}
    assert build([*first, payment(77, 5)]) == {1: True}, "a label of no row"


def test_a_label_of_a_day_is_known_from_its_end(project: Path) -> None:
    schema = yaml.safe_load(PAYMENTS)["schema"] | {"settled_at": {"type": "date", "known": "settled"}}
    write_project(project, yaml.safe_dump(yaml.safe_load(PAYMENTS) | {"schema": schema}))
    rows = order_rows([order(1, 5.5), order(2, 6.0), order(3, 4.9)])
    same_day = received([payment(n, 5) for n in (1, 2, 3)], 5.4)
    instants = same_day.rows.read_all()
    days = instants.set_column(2, "settled_at", instants["settled_at"].cast("date32"))
    made = in_memory.build(orders(), rows, replace(same_day, rows=days.to_reader()))
    assert [row["order_id"] for row in made.table.to_pylist()] == [1, 3]
    assert made.labels is not None and made.labels.rows.too_early == 1


def test_versions_of_rows_show_what_was_known_and_the_label_comes_from_its_feed(project: Path) -> None:
    history = {"on_conflict": "history", "version_by": "seen"}
    schema = yaml.safe_load(ORDERS)["schema"] | {"seen": {"type": "timestamp", "known": "order"}}
    write_project(project, yaml.safe_dump(yaml.safe_load(ORDERS) | history | {"schema": schema}))
    versions = [order(1, 10, amount=5.0), order(1, 10, amount=7.0)]
    rows = order_rows(versions)
    seen = [order(1, 9)["ordered_at"], order(1, 12)["ordered_at"]]
    made = in_memory.build(orders(), rows.append_column("seen", [seen]), received([payment(1, 11)], 20))
    assert [(row["own__amount"], row["paid"]) for row in made.table.to_pylist()] == [(5.0, True)]


def test_the_hold_out_and_the_target_are_those_of_the_joined_examples() -> None:
    rows = order_rows([*(order(n, n) for n in range(30)), *(order(n, n + 5) for n in range(30, 40))])
    made = in_memory.build(orders(), rows, received([payment(n, 32 if n == 3 else n + 7) for n in range(40)], 300))
    learnable = without_late(orders(), made.table)
    rows = split(orders(), learnable)
    assert (rows.learn.num_rows, rows.held_out.num_rows) == (24, 10), (
        "orders 3 and 25 to 29 were settled after the hold-out began"
    )
    assert target_feature(orders()).values == ("false", "true") and target_column(orders()).type == "boolean"


def test_the_counts_are_told() -> None:
    rows = {"labelled": 1200, "missing": 3, "not_yet": 0, "too_early": 1, "late": 200}
    assert told("payments", rows) == (
        "1,000 rows have a label of 'payments'; 3 not used, none was delivered; 1 not used, it was known before the "
        "prediction; 200 not used, it became known only after the hold-out began"
    )


def changed(project: Path, name: str, **keys: Any) -> None:
    text = {"orders": ORDERS, "payments": PAYMENTS}[name]
    write_project(project, yaml.safe_dump(yaml.safe_load(text) | keys, sort_keys=False))


def predicting(**keys: Any) -> dict[str, Any]:
    found = yaml.safe_load(ORDERS)["prediction"]
    source = found["from"] | {key: value for key, value in keys.items() if key in ("pipeline", "key", "known_at")}
    return {"prediction": found | {"from": source} | {key: keys[key] for key in keys.keys() & found.keys()}}


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        (
            {"pipeline": "payment"},
            r"prediction.from.pipeline: there is no pipeline 'payment' \(did you mean payments\?",
        ),
        ({"target": "payd"}, r"prediction.target: pipeline 'payments' has no column 'payd' \(did you mean paid\?"),
        (
            {"known_at": "setled_at"},
            r"known_at: pipeline 'payments' has no column 'setled_at' \(did you mean settled_at",
        ),
        ({"known_at": "invoice"}, "known_at: column 'invoice' must be date or timestamp, but it is integer"),
        ({"key": ["invoce"]}, r"from.key: pipeline 'payments' has no column 'invoce' \(did you mean invoice\?"),
        ({"key": ["paid"]}, "column 'paid' of 'payments' is boolean, but 'order_id', for which it stands, is integer"),
        ({"key": []}, "pipeline 'payments' has no column 'order_id'"),
        ({"target": "settled_at"}, "a timestamp column cannot be the target of a classification"),
    ],
)
def test_a_wrong_name_is_refused_by_the_check(project: Path, keys: dict[str, Any], wanted: str) -> None:
    changed(project, "orders", **predicting(**keys))
    with pytest.raises(PipelineError, match=wanted) as refused:
        check_pipeline.check(orders(), thorough=False)
    assert refused.value.hint


def with_nullable(column: str) -> dict[str, Any]:
    schema = yaml.safe_load(PAYMENTS)["schema"]
    return {**schema, column: {**schema[column], "nullable": True}}


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"on_conflict": "history", "version_by": "settled_at"}, "'payments' has `on_conflict: history`"),
        ({"classification": "sensitive"}, "personal is lower than sensitive, the classification of the labels"),
        ({"key": ["invoice", "settled_at"]}, "invoice is not the key of 'payments' .invoice, settled_at."),
        ({"key": ["nothing"]}, "pipeline 'payments' is not valid"),
        ({"schema": with_nullable("paid")}, "column 'paid' of 'payments' is nullable, but a row there is a label"),
        ({"schema": with_nullable("settled_at")}, "'settled_at' is nullable, but every label needs the time"),
    ],
)
def test_a_label_pipeline_that_cannot_label_is_refused(project: Path, keys: dict[str, Any], wanted: str) -> None:
    changed(project, "payments", **keys)
    with pytest.raises(PipelineError, match=wanted):
        check_pipeline.check(orders(), thorough=False)


def test_a_derived_label_pipeline_is_refused_by_name(project: Path) -> None:
    source = {"kind": "derived", "prefix": "payments/", "inputs": ["orders"], "sql": "include/sql/payments.sql"}
    keys = {key: value for key, value in yaml.safe_load(PAYMENTS).items() if key != "on_conflict"}
    write_project(project, yaml.safe_dump(keys | {"source": source, "classification": "personal"}))
    with pytest.raises(PipelineError, match="'payments' is derived from other pipelines"):
        feed_of(orders())


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"pipeline": "orders"}, "it names this pipeline; omit `from`"),
        ({"target": "amount"}, "column 'amount' of pipeline 'payments' is in the schema of this one, too"),
        ({"key": ["invoice", "paid"]}, "prediction.from.key: name 1 columns, which stand for order_id"),
    ],
)
def test_what_the_file_alone_tells_is_refused_when_it_is_read(project: Path, keys: dict[str, Any], wanted: str) -> None:
    changed(project, "orders", **predicting(**keys))
    with pytest.raises(PipelineError, match=wanted):
        spec("orders")


def test_the_label_pipeline_of_each_pipeline_is_found() -> None:
    assert pipelines.labelled_by(pipelines.load_all()) == {"orders": "payments"}
    check_pipeline.check(orders(), thorough=False)


def test_a_pipeline_that_delivers_labels_is_not_removed_while_another_names_it(project: Path) -> None:
    def refusals() -> str:
        found = PipelineContents("payments", "remove", "primary", readers=tuple(facts._readers("payments")))
        return " ".join(plan(found).refusals)

    assert "its snapshots are read by orders (it takes its labels from it). Remove or change these first" in refusals()
    changed(project, "orders", holdout={})
    assert "read by orders (its file is not valid)" in refusals()
    (project / "include/pipelines/orders.yaml").unlink()
    assert refusals() == ""
