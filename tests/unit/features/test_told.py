"""A feature is told in one line, without a text of its expression."""

from __future__ import annotations

from rempart.features.catalogue import told
from rempart.models.encoding import features_of
from tests.unit.training import stage


def test_every_feature_of_a_pipeline_is_told() -> None:
    made = stage.pipeline(
        features={
            "stay": {
                "kind": "row",
                "at": "booking",
                "columns": ["lead", "room"],
                "calendar": {"arrival": ["month"]},
                "expressions": {"known": "agent = 'Erika ''E'' Mustermann' and lead > 3"},
            },
            "trend": {
                "kind": "trailing",
                "at": "booking",
                "by": ["room"],
                "windows": ["30d"],
                "mean": ["lead"],
                "since_last": True,
            },
        },
        expressions={"more": "stay.lead - trend.lead_mean_30d"},
    )
    found = told.definitions(made)
    assert {feature.name for feature in features_of(made)} <= found.keys()
    assert found["stay__lead"] == "column lead" and found["stay__arrival_month"] == "month of arrival"
    assert found["stay__known"] == "agent = '…' and lead > 3"
    assert found["trend__lead_mean_30d"] == "mean of lead with the same room, in the 30d before the moment 'booking'"
    assert found["expressions__more"] == "stay.lead - trend.lead_mean_30d"
    assert "Erika" not in str(found)
