"""Lineage from the deliveries to the node: the recorded steps of a version, and the unrecorded ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rempart.web.read_models.lineage import Lineage, lineages
from rempart.web.read_models.models import models
from rempart.web.wording import LANGUAGES, Texts
from tests.cockpit import NOW, Watched

RAN = {"pool": "gpu-a", "operator": "scaleway", "region": "par", "node": "n-1", "pod": "train-x", "gpu_type": "L40S"}


def snapshot(watched: Watched, name: str, previous: str | None, sources: list[str] | None, **body: Any) -> None:
    counts = {"rows": 10, "deliveries": 2, "delivered": 10, "accepted": 9, "quarantined": 1}
    found = {"snapshot": name, "previous": previous, "site": "primary"} | counts | body
    watched.record("snapshot", "p", found | ({} if sources is None else {"sources": sources}))


def candidate(watched: Watched, of: str | None = "s2", **body: Any) -> None:
    dataset = {"sha256": "d" * 64, "rows_train": 8, "rows_holdout": 2}
    features = [{"name": "nights"}, {"name": "adults"}]
    found = {"version": "4", "dataset": dataset, "snapshot": of, "features": features, "trainer": {"use": "hgb"}}
    found |= {"run_id": "r", "job_id": "j", "code_version": "c", "classification": "personal", "placement": None}
    watched.record("candidate", "p", found | body, timedelta(minutes=1))


def only(watched: Watched) -> Lineage:
    (found,) = lineages(watched.facts())
    return found


def test_the_deliveries_are_those_of_the_snapshot_and_of_all_before_it() -> None:
    watched = Watched()
    snapshot(watched, "s1", None, ["a" * 64, "b" * 64])
    snapshot(watched, "other", None, ["e" * 64])
    snapshot(watched, "s2", "s1", ["c" * 64])
    candidate(watched)
    found = only(watched).sources
    assert found
    assert (found.deliveries, found.rows_delivered, found.rows_accepted, found.whole) == (4, 20, 18, True)
    assert [delivery[0] for delivery in found.newest] == ["c", "a", "b"]


def test_records_that_do_not_go_back_to_the_first_or_name_none_say_so() -> None:
    watched = Watched()
    snapshot(watched, "s2", "s1", None)
    candidate(watched)
    found = only(watched).sources
    assert found and not found.whole and found.newest == ()
    lone = Watched()
    candidate(lone)
    assert only(lone).sources is None and only(lone).snapshot_seq is None


def test_a_chain_that_bites_its_tail_ends() -> None:
    watched = Watched()
    snapshot(watched, "s2", "s2", ["a" * 64])
    candidate(watched)
    found = only(watched).sources
    assert found and found.deliveries == 2


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    "ran",
    [None, RAN, {**RAN, "node": "n-1, n-2", "gpus": 2, "image": "r/i@sha256:1", "pod": None, "train_job": "train-y"}],
)
def test_the_way_is_a_list_of_six_steps_with_pod_and_node_in_words(language: Any, ran: dict[str, Any] | None) -> None:
    from rempart.web.rendering import _templates

    watched = Watched()
    snapshot(watched, "s2", "s1", ["a" * 64])
    candidate(watched, placement=ran, features=[{"name": "<script>"}])
    watched.record("refusal", "p", {"version": "4", "reasons": ["worse"]})
    found, t = models(watched.facts(), NOW), Texts(language)
    module: Any = _templates().get_template("lineage.html").module
    text = str(module.path(found.lineages[0], found.judgements, t, "/rempart", True))
    assert text.count("<li>") == 6 and "{" not in text and "<script>" not in text
    assert text.index("a" * 16) < text.index("<code>s2</code>") < text.index("<span>p 4</span>")
    assert t("kind.refusal") in text
    assert not (ran and ran.get("train_job")) or "TrainJob <code>train-y" in text
    for message in ("gpu-a", "scaleway", str(ran["node"])) if ran else (t("trained.local").replace("'", "&#39;"),):
        assert message in text
