"""The Delta table on S3 servers: the blocks of docs/how-to/read-snapshots.md, at both sites and in a replication."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rempart.flows.ingestion import delta_log
from rempart.flows.replication.replicate import replicate
from rempart.flows.shared.platform import Platform
from rempart.ingestion.delta import log
from rempart.ledger.memory import MemoryLedger
from rempart.replication.run import BucketRun
from rempart.replication.table_logs import table_of
from rempart.settings import sections
from rempart.settings.config import environment_connections, project_root
from rempart.sites.port import Site
from tests.delta_tables import NAME, rows, stored

pytestmark = pytest.mark.stores

PAGE = (project_root() / "docs" / "how-to" / "read-snapshots.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
TABLE = "s3://lake/snapshots/hotel_bookings"


@pytest.fixture
def pair(platform: Platform, proven_ledger: MemoryLedger, own_continuity: Any) -> Iterator[Platform]:
    mark = f"delta-{secrets.token_hex(4)}"
    buckets = sections.Buckets(lake=f"{mark}-lake", artifacts=f"{mark}-artifacts", backups=f"{mark}-backups")
    sites = [platform.site(name, "personal") for name in ("primary", "haven")]
    names = (buckets.lake, buckets.artifacts, buckets.backups)
    for site in sites:
        for bucket in names:
            site.ensure_bucket(bucket, versioned=True)
    settings = platform.config.model_copy(update={"buckets": buckets})
    yield dataclasses.replace(platform, config=settings, ledger_=proven_ledger, continuity_=own_continuity)
    for site in sites:
        for bucket in names:
            site.drop_bucket(bucket)


@pytest.fixture
def read(pair: Platform) -> Callable[[str], list[int]]:
    """Runs the blocks of the page at a site, in a process of their own: readers keep the keys of a bucket's first site.

    Returns the printed numbers of rows.
    """
    table = f"s3://{pair.config.buckets.lake}/{log.root(NAME).rstrip('/')}"
    code = "\nprint('=====')\n".join(block.replace(TABLE, table) for block in BLOCKS)
    # threads of the readers may still run when Python ends, and abort it then
    code += "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"

    def run(name: str) -> list[int]:
        connection = environment_connections(f"s3_{name}")
        reader = {
            "AWS_ENDPOINT_URL": pair.site(name, "personal").endpoint,
            "AWS_REGION": str(connection.extra.get("region_name") or "local-1"),
            "AWS_ACCESS_KEY_ID": connection.login,
            "AWS_SECRET_ACCESS_KEY": connection.password,
            "AWS_ALLOW_HTTP": "true",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | reader, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return [int(re.findall(r"\d+", shown)[-1]) for shown in done.stdout.split("=====")]

    return run


def test_the_blocks_of_the_page_read_the_table_at_the_primary_and_unchanged_at_haven(
    pair: Platform, read: Callable[[str], list[int]]
) -> None:
    primary, bucket = pair.site("primary", "personal"), pair.config.buckets.lake
    for number, ids in enumerate(([1, 2], [1, 2, 3])):
        made = stored(primary, *(rows(n) for n in ids), number=number, bucket=bucket)
        assert delta_log.publish(primary, bucket, made) == number
    assert read("primary") == [3, 3] and len(BLOCKS) == 2
    replicate(pair, "primary", "haven")
    assert read("haven") == [3, 3]


def test_in_the_middle_of_a_replication_haven_is_read_as_it_was_before(
    pair: Platform, read: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, bucket = pair.site("primary", "personal"), pair.config.buckets.lake
    delta_log.publish(primary, bucket, stored(primary, rows(1), bucket=bucket))
    replicate(pair, "primary", "haven")
    newer = stored(primary, rows(1, 2), rows(4, 5), number=1, bucket=bucket)
    delta_log.publish(primary, bucket, newer)
    seen: list[tuple[str, list[int]]] = []
    carry = BucketRun._carry

    def watched(run: BucketRun, plans: Any, *rest: Any) -> Any:
        """Copy key by key, and read haven's table after each."""
        from rempart.replication.outcome import Outcome

        outcome = Outcome()
        for plan in plans:
            outcome.add(carry(run, [plan], *rest))
            seen.append((plan.key, read("haven")))
        return outcome

    monkeypatch.setattr(BucketRun, "_carry", watched)
    assert replicate(pair, "primary", "haven").pending == 0
    assert [counts for _, counts in seen] == [[1, 1], [1, 1], [4, 4]]
    assert [bool(table_of(key)) for key, _ in seen] == [False, False, True]


def test_two_writers_on_a_server_take_different_versions(pair: Platform) -> None:
    from concurrent.futures import ThreadPoolExecutor

    primary, bucket = pair.site("primary", "personal"), pair.config.buckets.lake

    def publish(number: int) -> int:
        site: Site = pair.site("primary", "personal")
        return delta_log.publish(site, bucket, stored(site, rows(number + 1), number=number, bucket=bucket))

    with ThreadPoolExecutor(3) as pool:
        taken = list(pool.map(publish, range(3)))
    assert sorted(taken) == [0, 1, 2]
    state, _ = delta_log.read(primary, bucket, NAME)
    assert state.version == 2 and len(state.files) == 1
