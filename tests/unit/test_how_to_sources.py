"""The examples of the pages about sources, executed against real answers."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml

from rempart.ingestion.sources.bucket import BucketFiles, open_bucket
from rempart.ingestion.sources.port import Surroundings
from rempart.ingestion.sources.registry import opener_of
from rempart.settings.config import Config, Connection, operators_dir, project_root
from rempart.settings.operators import merge, read_catalogue
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.schema import read_yaml
from rempart.sovereignty.policy import Decision
from tests.http_service import Reply, Request, serving
from tests.memory_site import MemorySite
from tests.unit.ingestion.conftest import READINGS
from tests.unit.ingestion.sources.test_bucket import Sink

ROOT = project_root()
NOW = datetime(2026, 11, 24, tzinfo=UTC)
ROWS = [{"meter": f"m{n}", "day": "2026-01-01", "kwh": n, "changed_at": f"2026-01-01T0{n}:00:00Z"} for n in range(5)]


def examples(page: str, word: str) -> list[dict[str, Any]]:
    text = (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [data for data in map(yaml.safe_load, blocks) if word in data]


def pipeline(example: dict[str, Any], **source: str) -> ModelPipeline:
    data = yaml.safe_load(READINGS)
    data["schema"]["changed_at"] = {"type": "timestamp", "known": "read", "nullable": "cursor" not in example["source"]}
    return ModelPipeline.model_validate({**data, **example, "source": {**example["source"], **source}})


def around(page: str, recorded: list[Decision], hosts: list[str]) -> Surroundings:
    shipped = read_yaml(ROOT / "rempart.yaml")
    catalogue = read_catalogue(operators_dir(ROOT / "rempart.yaml"))
    data = merge(shipped, {"operators": merge(catalogue, shipped["operators"])})
    for part in ("origins", "policy"):
        for example in examples(page, part):
            data = merge(data, example)
    for place in data["origins"].values():
        place |= {"hosts": hosts} if "hosts" in place else {}

    def connections(name: str) -> Connection:
        return Connection(name, "aws", password="x", extra={"endpoint_url": "https://s3.eu-central-1.amazonaws.com"})

    def record(decision: Decision) -> None:
        recorded.append(decision)
        assert decision.allowed, decision.explain()

    return Surroundings(Config.model_validate(data), connections, NOW, record)


def answers(asked: Request) -> Reply:
    if asked.path.endswith(".csv.gz"):
        return Reply(b"meter,day\n")
    rows = [row for row in ROWS if str(row["changed_at"]) >= asked.query.get("since", "")]
    start = int(asked.query.get("after", "0"))
    more = start + 2 < len(rows)
    following = str(start + 2) if more else None
    return Reply(json.dumps({"data": {"items": rows[start : start + 2], "next": following}}).encode())


@pytest.mark.parametrize("example", examples("take-from-http.md", "source"), ids=["pages", "cursor", "download"])
def test_the_examples_of_http_take_what_the_service_has(example: dict[str, Any]) -> None:
    def reply(asked: Request) -> Reply:
        found = answers(asked)
        if example["source"].get("pagination", {}).get("by") == "next_url":
            data = json.loads(found.body)
            if data["data"]["next"] is not None:
                data["data"]["next"] = f"{asked.path}?after={data['data']['next']}"
            return Reply(json.dumps(data).encode())
        return found

    with serving(reply) as service:
        recorded: list[Decision] = []
        path = example["source"]["url"].removeprefix("https://api.energy.example")
        declared = pipeline(example, url=service.url + path)
        opener, sink = opener_of(declared), Sink()
        assert opener is not None
        place = around("take-from-http.md", recorded, [f"127.0.0.1:{service.port}"])
        got = opener(declared, place).extract({}, sink, NOW)
        assert recorded and {decision.what for decision in recorded} == {"origin"}
        (body,) = sink.stored.values()
        lines = body.decode().splitlines()
        assert len(lines) == (1 if declared.source.model_dump().get("download") else 1 + len(ROWS))
        again = opener(declared, place).extract(got.state, Sink(), NOW)
        assert again.deliveries == []


def test_the_example_of_a_bucket_is_allowed_by_the_policy_of_the_page() -> None:
    (example, own) = examples("take-from-a-bucket.md", "source")
    recorded: list[Decision] = []
    opened = open_bucket(pipeline(example), around("take-from-a-bucket.md", recorded, []))
    assert [(decision.what, decision.place) for decision in recorded] == [("origin", "origin 'partner'")]
    assert (opened.bucket, opened.folder, opened.origin.owner_jurisdiction) == ("acme-exports", "readings/2026/", "US")
    theirs, sink = MemorySite("partner"), Sink()
    theirs.ensure_bucket(opened.bucket, versioned=False)
    theirs.write(opened.bucket, f"{opened.folder}a.csv", b"meter,day\n")
    theirs.write(opened.bucket, "readings/2025/b.csv", b"meter,day\n")
    assert len(BucketFiles(theirs, opened.bucket, opened.folder, opened.origin).extract({}, sink, NOW).deliveries) == 1
    assert own["source"]["site"] == "haven"
