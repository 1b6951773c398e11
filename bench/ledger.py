"""Measure appends to the ledger beside the same inserts without chain and signature.

make bench BENCH=ledger

The bench starts a PostgreSQL of its own. Both sides open a connection for each append, as the platform does. Then 8
writers of 1,000 appends each write one chain without a fork, and the bench verifies the chain from its first record.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.report import Row, write
from rempart.deployment.servers import postgresql
from rempart.ledger import keys
from rempart.ledger.postgresql import PostgresqlLedger
from rempart.ledger.verification import verify
from rempart.settings.config import Connection
from tests.integration.own_servers import Servers, own_servers

WRITERS = (1, 2, 4, 8)
ROUNDS = 3
APPENDS = 240  # together, in each round
PROOF = 1000  # for each of 8 writers
PLAIN = """
CREATE TABLE plain (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind text NOT NULL, subject text NOT NULL, body jsonb NOT NULL);
CREATE INDEX ON plain (kind, subject, seq DESC);
GRANT SELECT, INSERT ON plain TO ledger;
"""
WRITER = """
import json, sys
import psycopg
from rempart.settings.config import parse_connection
from rempart.ledger import keys
from rempart.ledger.postgresql import PostgresqlLedger
side, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
key = keys.from_connection(parse_connection("ledger_key", sys.stdin.readline()))
connection = parse_connection("pg_ledger", sys.stdin.readline())
ledger = PostgresqlLedger(connection, lambda: key)
key.sign(b"warm")
reasons = [{"ok": True, "rule": "policy.personal.jurisdictions", "fact": "the seat of operator x is FR"}] * 4
def chained(body):
    ledger.append("decision", name, body)
def plain(body):
    with psycopg.connect(connection.postgresql_url(), connect_timeout=10) as session:
        session.execute("INSERT INTO plain (kind, subject, body) VALUES (%s, %s, %s) RETURNING seq, at",
                        ("decision", name, json.dumps(body, sort_keys=True))).fetchone()
append = chained if side == "ours" else plain
print("ready", flush=True)
sys.stdin.readline()
for i in range(count):
    append({"i": i, "allowed": True, "reasons": reasons})
"""


def text(connection: Connection) -> str:
    names = ("conn_type", "host", "port", "login", "password", "schema")
    return json.dumps({name: getattr(connection, name) for name in names})


def seconds(servers: Servers, side: str, writers: int, each: int) -> float:
    """From the start signal until the last writer has ended; processes have started and imported before."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, side, f"writer {n}", str(each)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(writers)
    ]
    for process in running:
        assert process.stdin and process.stdout
        process.stdin.write(f"{text(servers.connections('ledger_key'))}\n{text(servers.connections('pg_ledger'))}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
    started = time.perf_counter()
    for process in running:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.close()
    assert [process.wait() for process in running] == [0] * writers
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, own_servers(Path(folder) / "var") as servers:
        with postgresql.connect(replace(servers.superuser, schema="ledger")) as session:
            session.execute(PLAIN)
        rates: dict[tuple[str, int], list[float]] = {}
        for _ in range(ROUNDS):
            for writers in WRITERS:
                for side in ("ours", "peer"):
                    rate = APPENDS / seconds(servers, side, writers, APPENDS // writers)
                    rates.setdefault((side, writers), []).append(rate)
        took = seconds(servers, "ours", 8, PROOF)
        key = keys.from_connection(servers.connections("ledger_key"))
        began = time.perf_counter()
        entries = PostgresqlLedger(servers.connections("pg_ledger")).entries()
        verdict = verify((entry.line for entry in entries), [key.public], {})
        verified = time.perf_counter() - began
    expected = 1 + APPENDS * ROUNDS * len(WRITERS) + 8 * PROOF
    whole = verdict.ok and verdict.records == expected
    print(f"8 writers x {PROOF} appends: {took:.1f} s, {8 * PROOF / took:.0f} appends/s")
    print(f"one chain of {verdict.records} records (expected {expected}), verified in {verified:.1f} s: {whole}")
    rows = [
        Row(
            f"{writers} writer{'s' if writers > 1 else ''}",
            "appends/s",
            round(statistics.median(rates["ours", writers]), 1),
            round(statistics.median(rates["peer", writers]), 1),
            "the same inserts without chain and signature",
            "higher",
        )
        for writers in WRITERS
    ]
    proof = {
        "writers": 8,
        "appends_each": PROOF,
        "seconds": round(took, 2),
        "records": verdict.records,
        "one_chain": whole,
        "verified_per_second": round(verdict.records / verified),
    }
    write("ledger", rows, proof=proof)
    if not whole:
        raise SystemExit(f"the chain does not verify: {verdict.broken}")


if __name__ == "__main__":
    main()
