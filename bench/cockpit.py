"""Measure the cockpit's overview on a grown platform, beside Airflow's own list of DAGs, on one stack.

make bench BENCH=cockpit        ARGS="--records 10000 --keys 100000" for a short trial

The bench starts a stack of its own and removes it afterwards. The stack has a ledger of 100,000 records in one valid
chain, 1,000 of them snapshots, and 1,000,000 replicated keys in the catalogue. Then 5 readers at once request the page
as a browser does. Our page and Airflow's list take turns, so that both meet the same machine. Meanwhile the cockpit
refreshes its facts in the background, as always.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg

from bench.prove_pods import own_stack
from bench.report import Row, write
from rempart.cli import rendering
from rempart.deployment.embedded import lifecycle
from rempart.deployment.setup import credentials, paths
from rempart.flows.shared.platform import Platform, open_platform
from rempart.ledger.chain import Head, extend
from rempart.ledger.port import Kind
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.ledger.verification import verify
from rempart.settings import config, telemetry
from rempart.settings.config import Connection

OFFSET = "5000"
RECORDS, SNAPSHOTS, KEYS = 100_000, 1_000, 1_000_000
READERS, ROUNDS, EACH = 5, 6, 10
"""Requests of one side: READERS x ROUNDS x EACH."""
BAR = 0.200  # seconds, of the 95th percentile
OURS, THEIRS = "/rempart/overview", "/ui/dags?limit=50&offset=0&dag_runs_limit=14"
PEER = "Airflow's list of DAGs (/ui/dags)"
_KEYS = """
INSERT INTO replica (source, target, bucket, key, version, place, marker, size, sha256, etag, modified, target_version,
                     target_etag, basis, copied, verified)
SELECT 'primary', 'haven', 'bench', 'key/' || n, '', n, false, 10240, encode(sha256(n::text::bytea), 'hex'), 'e' || n,
       now(), '', 'e' || n, 'read', now(), now() FROM generate_series(1, %s) n
"""


def bodies(records: int, snapshots: int, keys: int) -> Iterator[tuple[Kind, str, dict[str, Any]]]:
    """What a platform writes in some years, in the shares in which it does; so many snapshots among it."""
    reasons = [
        {"rule": f"policy.personal.{name}", "ok": True, "fact": f"{name} of operator trial-one is in EU", "remedy": ""}
        for name in ("jurisdictions", "owner_jurisdictions", "qualifications", "classification")
    ]
    metrics = {"mae": 22.4, "rmse": 31.0}
    judged = {"metrics": metrics, "baselines": {"mae": 39.9, "rmse": 52.0}, "champion_metrics": metrics}
    gate = {"metric": "mae", "limit": 25.0, "baseline_margin": 0.2, "champion_tolerance": 0.02}
    counts = {"objects": keys, "bytes": keys * 10240, "verified": keys, "copied": 40, "failures": 0, "failed": []}
    point, made = "", 0
    for i in range(records):
        at = (datetime.now(UTC) - (records - i) * timedelta(seconds=100)).isoformat()
        if made < snapshots and i % (records // snapshots) == 0:
            made += 1
            body = {"snapshot": f"{i:016x}", "site": "primary", "rows": 15402, "delivered": 400, "accepted": 398}
            yield "snapshot", "hotel_bookings", body | {"quarantined": 2, "previous": None, "deliveries": 62}
        elif i % 20 == 1:
            point = f"{datetime.fromisoformat(at):%Y%m%dT%H%M%SZ}-{i:06x}"
            body = {"site": "haven", "created_at": at, "manifest_sha256": "ab" * 32, "link": i, "dangling": []}
            databases = dict.fromkeys(("airflow", "mlflow", "ledger"), "cd" * 32)
            yield "restore-point", point, body | {"bytes": 5_000_000, "objects": 900, "databases": databases}
        elif i % 200 == 2:
            body = {"version": str(i), "previous": None, "gate": gate, "reasons": ["passed: mae"], **judged}
            yield ("promotion" if i % 400 == 2 else "refusal"), "hotel_bookings", body
        elif i % 500 == 3 and point:
            checks = [{"what": f"check {n}", "ok": True, "detail": "as on record"} for n in range(12)]
            yield (
                "drill",
                point,
                {"ok": True, "proved": True, "rto_seconds": 30.0, "rpo_seconds": 60.0, "checks": checks},
            )
        elif i % 3 == 0:
            asked = {"what": "data", "classification": "personal", "allowed": i % 300 != 6}
            kind: Kind = "decision" if asked["allowed"] else "denial"
            place = "site 'primary'" if asked["allowed"] else f"site 'elsewhere-{i % 7}'"
            yield kind, place, asked | {"place": place, "reasons": reasons}
        else:
            yield "replication", "primary->haven", counts | {"lag_seconds": float(i % 600), "seconds": 9.0}


def fill_ledger(platform: Platform, records: int, keys: int) -> None:
    """Extend the chain by so many records, in one transaction that holds the ledger's lock as each append does."""
    from rempart.ledger.postgresql import _take_head

    key = platform.signer()
    with psycopg.connect(platform.database("ledger").postgresql_url()) as session:
        head, _ = _take_head(session, key)
        first = datetime.now(UTC) - timedelta(seconds=1)
        with session.cursor() as cursor, cursor.copy("COPY evidence (record, hash, sig) FROM STDIN") as copy:
            for i, (kind, subject, body) in enumerate(bodies(records, min(SNAPSHOTS, records // 10), keys)):
                entry = extend(head, first + i * timedelta(microseconds=5), kind, subject, body, key)
                copy.write_row((entry.text, entry.hash, entry.sig))
                head = Head(entry.seq, entry.hash, key.id)
        session.execute("ANALYZE evidence")


def fill_catalogue(superuser: Connection, keys: int) -> None:
    with psycopg.connect(replace(superuser, schema="continuity").postgresql_url()) as session:
        session.execute(_KEYS, [keys])
        session.execute("ANALYZE replica")


def measured(url: str, token: str, path: str) -> list[float]:
    """Seconds of each request of 5 readers at once, who each keep a connection, as browsers do."""

    def read(_: int) -> list[float]:
        took = []
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
            http.get("/api/v2/version")  # connects
            for _ in range(EACH):
                began = time.perf_counter()
                answer = http.get(path)
                took.append(time.perf_counter() - began)
                answer.raise_for_status()
        return took

    with ThreadPoolExecutor(READERS) as pool:
        return [seconds for found in pool.map(read, range(READERS)) for seconds in found]


def percentile(seconds: list[float], share: int) -> float:
    return statistics.quantiles(seconds, n=100)[share - 1]


def shows_what_was_filled(url: str, token: str) -> None:
    """Wait for facts that hold the new records: what is measured is that page and no emptier one."""
    deadline = time.monotonic() + 120
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        while True:
            found = http.get("/rempart/api/overview").json()
            if found["champions"] and found["denials"] and not found["moment"]["unknown"]:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"The overview does not show what was filled in: {found['moment']}")
            time.sleep(2)


def run(stack: paths.Stack, records: int, keys: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of each request, by path, and how many records the chain has."""
    lifecycle.up(stack)
    telemetry.adopt_environment()
    platform = open_platform()
    began = time.perf_counter()
    fill_ledger(platform, records, keys)
    fill_catalogue(credentials.superuser(stack, config.read_env_file(stack.secrets)), keys)
    ledger = PostgresqlLedger(platform.database("ledger"))
    verdict = verify((entry.line for entry in ledger.entries()), [platform.signer().public], {})
    if not verdict.ok:
        raise SystemExit(f"the chain does not verify: {verdict.broken}")
    print(f"filled and verified in {time.perf_counter() - began:.0f} s: {verdict.records:,} records, {keys:,} keys")
    api = config.environment_connections("airflow_api")
    url = f"http://{api.host}:{api.port}"
    answer = httpx.post(f"{url}/auth/token", json={"username": api.login, "password": api.password}, timeout=60)
    token = answer.raise_for_status().json()["access_token"]
    shows_what_was_filled(url, token)
    took: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for path in took:
        measured(url, token, path)  # warms up
    for _ in range(ROUNDS):
        for path, all_of_it in took.items():
            all_of_it += measured(url, token, path)
    return took, verdict.records


@rendering.on_terminal()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--keys", type=int, default=KEYS)
    given = parser.parse_args()
    folder = config.var_dir() / "bench-cockpit"
    offset = os.environ.get("REMPART_PORT_OFFSET") or OFFSET
    with own_stack(config.project_root(), folder, offset, {}) as stack:
        took, records = run(stack, given.records, given.keys)
    shutil.rmtree(folder)
    figures = {
        name: {f"p{share}": round(percentile(took[path], share), 4) for share in (50, 95, 99)}
        for name, path in (("overview", OURS), ("airflow_dags", THEIRS))
    }
    rows = [
        Row(
            f"overview, p{share}, {READERS} readers at once",
            "s",
            figures["overview"][f"p{share}"],
            figures["airflow_dags"][f"p{share}"],
            PEER,
            "lower",
        )
        for share in (95, 50)
    ]
    write("cockpit", rows, figures=figures, records=records, keys=given.keys, requests=len(took[OURS]), bar=BAR)
    if figures["overview"]["p95"] > BAR:
        raise SystemExit(f"p95 is {figures['overview']['p95'] * 1000:.0f} ms, above {BAR * 1000:.0f} ms")


if __name__ == "__main__":
    main()
