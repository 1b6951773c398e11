"""docs/how-to/verify-the-ledger.md, executed: an auditor's shell, on an honest export and on altered ones."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rempart.ledger.chain import Head, checkpoint
from rempart.ledger.keys import signer, to_pem
from rempart.ledger.memory import MemoryLedger
from rempart.settings.config import project_root

PAGE = project_root() / "docs" / "how-to" / "verify-the-ledger.md"
FIRST, SECOND, STRANGER = signer(bytes(31) + b"1"), signer(bytes(31) + b"2"), signer(bytes(31) + b"3")
NOW = datetime(2026, 1, 5, tzinfo=UTC)


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with `audit` and `key.pem`: 12 records, a rotation, checkpoints at 7 and 12."""
    assert shutil.which("jq") and shutil.which("openssl"), "the page needs jq and openssl"
    ledger = MemoryLedger(FIRST, lambda: NOW)
    folder = tmp_path / "audit"
    for part in ("ledger", "checkpoints"):
        (folder / part).mkdir(parents=True)
    (tmp_path / "key.pem").write_text(to_pem(FIRST.public), encoding="ascii")
    for i in range(6):
        ledger.append("decision", "site 'primary'", {"i": i, "ü": ["}", '"sig":"', "\\", 0.1, 1e-7, None]})
    witness(folder, ledger, FIRST)
    ledger.rotate(SECOND)
    for i in range(4):
        ledger.append("snapshot", "bookings", {"i": i})
    witness(folder, ledger, SECOND)
    lines = [f"{entry.line}\n" for entry in ledger.chain]
    for first, part in ((1, lines[:7]), (8, lines[7:])):
        name = f"{first:012d}-{first + len(part) - 1:012d}.jsonl"
        (folder / "ledger" / name).write_text("".join(part), encoding="utf-8")
    return tmp_path


def witness(folder: Path, ledger: MemoryLedger, key: object) -> None:
    newest = ledger.chain[-1]
    text = checkpoint(Head(newest.seq, newest.hash), NOW, key)  # type: ignore[arg-type] # a signer
    (folder / "checkpoints" / f"{newest.seq:012d}-{newest.hash[:16]}.json").write_text(text, encoding="utf-8")


def run(text: str, place: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-ec", text], cwd=place, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )


def test_both_ways_of_the_page_verify_an_honest_export(place: Path) -> None:
    ours, shell = blocks("sh")
    done = run(ours, place)
    assert done.returncode == 0 and "every record verifies" in done.stdout, done.stdout + done.stderr
    done = run(shell, place)
    assert done.returncode == 0, done.stdout + done.stderr
    wanted = re.escape(blocks("text")[0]).replace(re.escape("..."), "[0-9a-f]{64}")
    assert re.fullmatch(wanted, done.stdout), done.stdout


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (file,) = folder.glob(name)
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new, 1), encoding="utf-8")

    return act


def drop_line(folder: Path) -> None:
    file = folder / "ledger" / "000000000001-000000000007.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:3] + lines[4:]), encoding="utf-8")


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "changed": (edit("ledger/*7.jsonl", '"i":3', '"i":4'), "record 5: its hash is another"),
    "deleted": (drop_line, "record 4: it is missing"),
    "cut": (lambda f: (f / "ledger" / "000000000008-000000000012.jsonl").unlink(), "record 8: it is missing"),
    "another signature": (edit("ledger/*7.jsonl", '"sig":"', '"sig":"AAAA'), "record 1"),
    "a changed checkpoint": (edit("checkpoints/*07-*", '"at":"2026', '"at":"2025'), "record 7: audit/checkpoints"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_shell_of_the_page_finds_what_was_done_to_an_export(place: Path, attack: str) -> None:
    act, message = ATTACKS[attack]
    act(place / "audit")
    done = run(blocks("sh")[1], place)
    assert done.returncode == 1 and done.stdout.splitlines()[-1].startswith(message), done.stdout + done.stderr


def test_the_shell_of_the_page_refuses_a_chain_of_another_key(place: Path) -> None:
    (place / "key.pem").write_text(to_pem(STRANGER.public), encoding="ascii")
    done = run(blocks("sh")[1], place)
    assert done.returncode == 1 and "record 1: it is not signed with the key of the chain" in done.stdout
