"""A logged prediction is explained by contributions that add up to it, after the checks of a replay."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from rempart.cli.predictions import explain as command
from rempart.errors import PredictionError, ServingError
from rempart.flows.prediction.champion import Champion
from rempart.flows.prediction_log import explain as flow
from rempart.flows.prediction_log import shipment
from rempart.training import datasets
from tests.erasable import Lake
from tests.unit.flows.prediction.test_champion import PIPELINE, TABLE, champion
from tests.unit.flows.prediction_log.test_replay import NAME, answered, lake, log

__all__ = ["champion", "lake"]


def trained(lake: Lake) -> dict[str, str]:
    """Record version 7 with its frozen training set."""
    body = datasets.encoded(TABLE)
    site, digest = lake.platform.active_site("personal"), hashlib.sha256(body).hexdigest()
    place = {"bucket": lake.platform.config.buckets.lake, "key": datasets.key(NAME, digest), "sha256": digest}
    site.write(place["bucket"], place["key"], body)
    lake.platform.ledger.append("candidate", NAME, {"version": "7", "dataset": place})
    return place


def test_contributions_of_a_logged_prediction_add_up_to_it(lake: Lake, champion: Champion, tmp_path: Path) -> None:
    trained(lake)
    asked = answered(champion, 1)
    log(lake, tmp_path, asked)
    found = flow.explain(lake.platform, PIPELINE, asked.id, tmp_path / NAME)
    assert found.label == asked.output["prediction"]
    made = found.found
    assert made.prediction == pytest.approx(asked.output[f"probability_{found.label}"])
    assert made.reference + sum(each.part for each in made.contributions) == pytest.approx(made.prediction)
    assert {each.feature for each in made.contributions} == set(asked.features)
    shipment.ship(lake.platform, tmp_path / NAME)
    again = flow.explain(lake.platform, PIPELINE, asked.id, tmp_path / NAME)
    assert again.found == made and again.logged.where != found.logged.where
    other = next(name for name in champion.model.target.values if name != found.label)  # type: ignore[union-attr] # a classification
    assert flow.explain(lake.platform, PIPELINE, asked.id, tmp_path / NAME, label=other).found != made
    with pytest.raises(PredictionError, match="no class of that name"):
        flow.explain(lake.platform, PIPELINE, asked.id, tmp_path / NAME, label="nobody")
    told, document = "\n".join(command.lines(found, with_values=False)), command.document(found, with_values=False)
    assert f"probability of {found.label}" in told and "CONTRIBUTION" in told and "VALUE" not in told
    assert "value" not in document["contributions"][0] and abs(document["difference"]) < 1e-5
    assert command.document(found, with_values=True)["contributions"][0]["value"] is not None
    assert "VALUE" in "\n".join(command.lines(found, with_values=True))


def test_what_is_gone_or_differs_is_not_explained(lake: Lake, champion: Champion, tmp_path: Path) -> None:
    place, asked, changed = trained(lake), answered(champion, 1), answered(champion, 2)
    halved = {name: value if isinstance(value, str) else value / 2 for name, value in changed.output.items()}
    log(lake, tmp_path, asked, dataclasses.replace(changed, output=halved))
    with pytest.raises(ServingError, match="computes another prediction"):
        flow.explain(lake.platform, PIPELINE, changed.id, tmp_path / NAME)
    with pytest.raises(ServingError, match=r"the log of .* does not have it"):
        flow.explain(lake.platform, PIPELINE, "00" * 16, tmp_path / NAME)
    lake.platform.active_site("personal").delete(place["bucket"], place["key"])
    with pytest.raises(ServingError, match="the training rows of version 7 are gone"):
        flow.explain(lake.platform, PIPELINE, asked.id, tmp_path / NAME)
