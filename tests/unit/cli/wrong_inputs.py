"""Wrong inputs to the command line, each with its exit code and a part of its answer, which names the remedy.

python -m tests.unit.cli.wrong_inputs     (part of `make docs`) writes docs/reference/wrong-inputs.md: what each answers
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import RempartError

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "reference" / "wrong-inputs.md"
POINT = "20260105T000000Z-abcdef"
NO_STACK = "For the embedded stack, run `rempart up`"


@dataclass(frozen=True)
class Wrong:
    """What somebody types after `rempart`, the exit code, and a part of the answer."""

    line: str
    code: int
    part: str


INPUTS = [
    # a command that does not exist, or did once
    Wrong("stauts", 2, "Did you mean `rempart status`"),
    Wrong("frobnicate", 2, "`rempart --help` lists the commands: up, status, demo, down"),
    Wrong("help", 2, "Did you mean `rempart --help`"),
    Wrong("start", 2, "Did you mean `rempart up`"),
    Wrong("stop", 2, "Did you mean `rempart down`"),
    Wrong("init", 2, "Did you mean `rempart stack init`"),
    Wrong("points list", 2, "Did you mean `rempart backup list`"),
    Wrong("doctor site", 2, "Did you mean `rempart site doctor`"),
    Wrong("failover --to haven", 2, "Did you mean `rempart site failover`"),
    Wrong("new pipeline sales.csv", 2, "Did you mean `rempart pipeline new`"),
    Wrong("drill", 2, "Did you mean `rempart backup drill`"),
    Wrong("sbom", 2, "Did you mean `rempart audit sbom`"),
    Wrong("erase hotel_bookings 1", 2, "Did you mean `rempart pipeline erase`"),
    Wrong("classification lower", 2, "Did you mean `rempart policy lower-classification`"),
    Wrong("list users", 2, "Did you mean `rempart users list`"),
    Wrong("stack lst", 2, "`rempart stack --help` lists the commands: "),
    Wrong("backup lst", 2, "Did you mean `rempart backup list`"),
    Wrong("site sbom", 2, "Did you mean `rempart audit sbom`"),
    Wrong("config chek", 2, "Did you mean `rempart config check`"),
    # options and arguments
    Wrong("up --migrat", 2, "Possible options: --migrate"),
    Wrong("up now", 2, "Try 'rempart up --help'"),
    Wrong("down --force", 2, "Try 'rempart down --help'"),
    Wrong("demo --fast", 2, "Try 'rempart demo --help'"),
    Wrong("stack logs --lines 0", 2, "greater than or equal to 1"),
    Wrong("stack logs --lines many", 2, "valid integer"),
    Wrong("stack password", 2, "Missing argument 'service'"),
    Wrong("pipeline new", 2, "pass either a FILE, or --table"),
    Wrong("pipeline check", 2, "Missing argument 'name'"),
    Wrong("quarantine accept hotel_bookings", 2, "Missing argument 'delivery'"),
    Wrong("config check hotel_bookings", 2, "Try 'rempart config check --help'"),
    Wrong("site replicate primary", 2, "Missing argument 'target'"),
    Wrong("site replicate primary haven --accept-deletes -1", 2, "greater than or equal to 0"),
    Wrong("site failback --to haven", 2, "Try 'rempart site failback --help'"),
    Wrong("backup explain", 2, "Missing argument 'point'"),
    Wrong(f"backup hold {POINT}", 2, "Missing option '--why'"),
    Wrong("backup drill --scenario flood", 2, "'routine', 'cyber-attack'"),
    Wrong("backup drill-report --profile dora", 2, "'financial', 'nis2', 'none'"),
    Wrong("backup drill-report --record first", 2, "valid integer"),
    Wrong("restore --wait -5", 2, "greater than or equal to 0"),
    Wrong("pitr restore", 2, "Missing option '--until'"),
    Wrong("keys destroy", 2, "Missing argument 'scope'"),
    Wrong("users client web-shop --pipelines a b", 2, "with commas and no spaces"),
    Wrong("ledger verify export", 2, "writes it as public.pem into the folder"),
    Wrong("ledger show --limit 0", 2, "greater than or equal to 1"),
    Wrong("policy explain", 2, "Missing argument 'host'"),
    Wrong("policy lower-classification hotel_bookings --to internal", 2, "Missing option '--because'"),
    Wrong("users add marie", 2, "Missing option '--role'"),
    Wrong("users remove", 2, "Missing argument 'name'"),
    Wrong("audit sbom --timestamp yesterday", 2, "Invalid value for '--timestamp'"),
    Wrong("bundle fetch", 2, "Missing argument 'folder'"),
    Wrong("watch --every soon", 2, "30s, 15m, 1h, 90d or 8w"),
    Wrong("run mlflow --port http", 2, "valid integer"),
    Wrong("pool doctor --wait 0", 2, "greater than or equal to 1"),
    Wrong("database doctor now", 2, "Try 'rempart database doctor --help'"),
    # names and values that mean nothing here
    Wrong("stack password postgres", 1, "Pass one of: airflow, mlflow, monitoring"),
    Wrong("stack init --images --kubernetes", 1, "once with each option"),
    Wrong("stack init --certificate chain.pem", 1, "Pass both: --certificate FILE --key FILE"),
    Wrong("stack init --certificate a.pem --key b.pem", 1, "Pass two PEM files that you may read"),
    Wrong("stack init --profiles nosuch", 1, "Choose among: celery, monitoring"),
    Wrong("pipeline new nosuch.csv", 1, "Correct the path"),
    Wrong("pipeline new folder", 1, "Pass a .csv, .tsv, .txt, .jsonl, .ndjson"),
    Wrong("pipeline new empty.csv", 1, "the file is empty"),
    Wrong("pipeline new header.csv", 1, "a header but no rows"),
    Wrong("pipeline new binary.csv", 1, "has a NUL character"),
    Wrong("pipeline new notes.docx", 1, "does not end in .csv, .tsv, .txt, .jsonl, .ndjson or .parquet"),
    Wrong('pipeline new sales.csv --name "Two Words"', 1, "--name"),
    Wrong("pipeline new sales.csv --table shop.orders", 2, "pass either a FILE, or --table"),
    Wrong("pipeline draft sales.csv", 2, "Did you mean `rempart pipeline new`"),
    Wrong("pipeline check nosuch", 1, "nosuch.yaml does not exist"),
    Wrong("pipeline check ../etc", 1, "Use lower case letters, digits and _"),
    Wrong("pipeline erase", 1, "Run `rempart pipeline erase PIPELINE KEY`"),
    Wrong("pipeline erase hotel_bookings", 1, "Write booking_id (integer) for each row"),
    Wrong("pipeline erase hotel_bookings B1", 1, "Write booking_id (integer) for each row"),
    Wrong("pipeline erase hotel_bookings --file nosuch.txt", 1, "Pass a file of UTF-8 text"),
    Wrong("pipeline erase hotel_bookings --again", 1, "Pass neither a pipeline nor a key"),
    Wrong("site doctor nosuch", 1, "Use one of: primary, haven"),
    Wrong("site replicate primary nosuch", 1, "Add it to `replication` in rempart.yaml"),
    Wrong("site verify-replica nosuch haven", 1, "Add it to `replication` in rempart.yaml"),
    Wrong("site failover", 1, "Pass --to SITE, or --abandon"),
    Wrong("site failover --to nosuch", 1, "Use one of: primary, haven"),
    Wrong("site failover --to haven --abandon", 1, "Pass only one"),
    Wrong("restore --only everything", 1, "Write database:NAME, bucket:lake"),
    Wrong("restore --only database:", 1, "Write database:NAME, bucket:lake"),
    Wrong("restore --aside Bad-Suffix --list", 1, "--aside before"),
    Wrong("restore --trust nosuch.pem --list", 1, "Pass a file in PEM format"),
    Wrong("pitr restore --until yesterday --to new", 1, "Write 2026-11-25T18:03:12Z, or `latest`"),
    Wrong('pitr restore --until "2026-11-25 18:00" --to new', 1, "Write 2026-11-25T18:03:12Z, or `latest`"),
    Wrong("pitr restore --until latest --to folder", 1, "Choose a new or empty folder"),
    Wrong("keys new-recipient notes.txt", 1, "Pass the name of a new file"),
    Wrong("keys rewrap --with nosuch.txt", 1, "Pass the file of an identity"),
    Wrong("ledger verify nosuch --key nosuch.pem", 1, "Pass the folder of an export"),
    Wrong("policy render iptables", 1, "Choose one of: kubernetes, cilium, nftables"),
    Wrong("policy render kubernetes --api-server nosuch", 1, "10.0.0.1:6443"),
    Wrong("policy explain example.com:99999", 1, "Write HOST, HOST:PORT"),
    Wrong('policy explain "no host"', 1, "Declare it under hosts in rempart.yaml"),
    Wrong("policy lower-classification hotel_bookings --to secret --because x --role y", 1, "Choose one of: public"),
    Wrong("users add marie --role boss", 1, "Choose a role: viewer"),
    Wrong('users add "Marie Curie" --role viewer', 1, "Use lower case letters"),
    Wrong("audit run --only spelling", 3, "Choose from: sbom"),
    Wrong("audit sbom --debian nosuch", 1, "Pass a dpkg status file"),
    Wrong("bundle fetch new --site nosuch", 1, "declare it under sites in rempart.yaml"),
    Wrong("watch --once --file nosuch.yaml", 2, "Create it, or name another file"),
    Wrong("watch --once --file notes.txt", 2, "Start from the file that the project ships"),
    Wrong("run airflow nosuch", 1, "Choose one of: postgresql"),
    Wrong("pool doctor nosuch", 1, "gpu_pools in rempart.yaml"),
    # right, but nothing is set up yet
    Wrong("stack password airflow", 1, NO_STACK),
    Wrong("stack logs mlflow", 1, "Run `rempart up`"),
    Wrong("stack upgrade", 1, "Set REMPART_VAR"),
    Wrong("stack upgrade --back", 1, "Run `rempart status`"),
    Wrong("backup list", 1, NO_STACK),
    Wrong("backup drill --point nosuch", 1, NO_STACK),
    Wrong("keys list", 1, NO_STACK),
    Wrong("ledger export evidence", 1, NO_STACK),
    Wrong("quarantine accept hotel_bookings abc", 1, NO_STACK),
    Wrong("restore --list", 1, "Pass the public key with --trust"),
    Wrong("pitr status", 1, "--identity"),
]


@dataclass(frozen=True)
class Answer:
    """Exit code and text of an answer; `fault`: an exception that is not ours, which users see as a traceback."""

    code: int
    text: str
    fault: BaseException | None


@contextmanager
def nowhere(folder: Path) -> Iterator[None]:
    """Stand in a folder with some wrong files, with this project's settings and no platform."""
    (folder / "folder").mkdir()
    files = {
        "empty.csv": b"",
        "header.csv": b"id,price\n",
        "binary.csv": b"\x00\xff\xfe" * 50,
        "notes.txt": b"x\n",
        "notes.docx": b"x\n",
    }
    for name, body in {**files, "folder/file": b"x"}.items():
        (folder / name).write_bytes(body)
    before, at = dict(os.environ), Path.cwd()
    for name in before:
        if name.startswith(("AIRFLOW_", "REMPART_")):
            del os.environ[name]
    os.environ |= {"REMPART_HOME": str(ROOT), "REMPART_VAR": str(folder / "var"), "COLUMNS": "1000", "NO_COLOR": "1"}
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(at)
        os.environ.clear()
        os.environ |= before


def answer(line: str, folder: Path) -> Answer:
    """Run `rempart LINE` in this process; call it inside `nowhere`. Paths of this machine are shortened."""
    done = CliRunner().invoke(app, shlex.split(line), prog_name="rempart")
    fault, code, text = done.exception, done.exit_code, done.output
    if isinstance(fault, RempartError):
        fault, code, text = None, 1, f"error: {fault}"  # as rempart.cli.main prints it
    if isinstance(fault, SystemExit):
        fault = None
    lines = [part.strip("│ \t") for part in text.splitlines() if not part.lstrip().startswith(("╭", "╰", "Usage: "))]
    plain = " ".join(part for part in lines if part)
    return Answer(code, plain.replace(str(folder) + "/", "").replace(str(ROOT) + "/", ""), fault)


def row(wrong: Wrong, given: Answer) -> str:
    """Return the row of the page."""
    text = given.text.replace("|", "\\|")
    return f"| `rempart {wrong.line}` | {given.code} | {text} |"


HEAD = """<!-- Generated by `make docs`; do not edit. -->

# Wrong inputs and their answers

**For** people who mistyped a command, and for reviewers. **Answers** what the command line says to a mistake.

A test types each line, in a folder where nothing is set up, and fails on a traceback or on an answer without a remedy.
Paths of this machine are left out.

| input | exit code | answer |
|---|---|---|
"""


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as name, nowhere(Path(name)):
        rows = [row(wrong, answer(wrong.line, Path(name))) for wrong in INPUTS]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
