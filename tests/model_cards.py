"""What every kept model card has to be."""

from __future__ import annotations

import json
from pathlib import Path

from rempart.flows.training.candidates.record import candidate_record
from rempart.flows.training.explained.gather import gather
from rempart.flows.training.explained.keep import keep, kept
from rempart.models.card import facts
from rempart.models.card.page import page
from rempart.models.tracking import session


def check_card(platform, pipeline, result, standing, folder, canary):
    """The version's card is in the ledger, at the site and in MLflow, and can be made again; it has no rare value."""
    keep(platform, pipeline, result.version)
    assert keep(platform, pipeline, result.version).standing == standing
    assert len(platform.ledger.find("model-card", f"{pipeline.name}/{result.version}")) == 1
    body = kept(platform.ledger, pipeline.name, result.version).body
    made = gather(platform, pipeline, result.version)
    assert made.standing == standing and facts.from_json(body["card"], "the record") == rounded(made)
    site, bucket = platform.active_site("personal"), platform.config.buckets.artifacts
    html = site.read(bucket, body["key"], sha256=body["sha256"]).decode()
    assert html == page(made)
    with session(platform.tracking()) as client:
        shown = client.download_artifacts(result.run_id, "model-card.html", str(folder))
    assert Path(shown).read_text() == html
    assert made.explanations and made.explanations.over_time
    assert sum(group.rows for group in made.explanations.over_time.groups) == result.rows_holdout
    outputs = candidate_record(platform.ledger, pipeline.name, result.version)["outputs"]
    bodies = [site.read(bucket, key, sha256=digest) for key, digest in outputs.items() if "explanations" in key]
    for text in (html, json.dumps(body), *(each.decode() for each in bodies)):
        assert canary not in text
    return made


def rounded(made):
    return facts.from_json(facts.as_json(made), "itself")
