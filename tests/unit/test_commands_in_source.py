"""The words that benches, proofs, tests and the library start `rempart` with are those of the command line."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from tests.unit.calls_in_source import ROOT, UNKNOWN, calls, parsed, passing
from tests.unit.docsgen.test_snippets import command

FOLDERS = (
    "bench",
    "include/rempart/deployment",
    "include/rempart/flows",
    "tests/e2e",
    "tests/faults",
    "tests/integration",
)
MAY_CALL = re.compile(r"rempart(\.cli)?\"|REMPART\b|\b(rempart|cli)\(")


def unknown(words: tuple[str, ...]) -> str:
    """The first word that the command line does not know, with the words before it; empty if it knows all."""
    found, names, rest = command(list(words))
    if hasattr(found, "commands") and rest and not rest[0].startswith((UNKNOWN, "-")):
        return " ".join([*names, rest[0]])
    options = {name for param in found.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    for word in rest:
        if word == "--":
            break
        name = word.partition("=")[0]
        if re.fullmatch(r"--[a-z][a-z-]*", name) and name not in options and not _passes_on(found):
            return " ".join([*names, name])
    return ""


def _passes_on(found: click.Command) -> bool:
    """Whether a command gives the options that it does not know to another program."""
    return bool(found.context_settings.get("ignore_unknown_options") or found.ignore_unknown_options)


def sources() -> list[Path]:
    """The sources that may start `rempart`: the others take seconds to parse."""
    files = [file for name in FOLDERS for file in sorted((ROOT / name).rglob("*.py"))]
    return [file for file in files if MAY_CALL.search(file.read_text(encoding="utf-8"))]


def test_every_source_calls_commands_that_exist() -> None:
    found = {
        f"{file.relative_to(ROOT)}:{call.line}": wrong
        for file in sources()
        for call in calls(file)
        if (wrong := unknown(call.words))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("prove_egress", ("ledger", "export", UNKNOWN)),  # through a function that passes words on
        ("prove_telemetry", ("up",)),  # the same, imported
        ("prove_upgrade", ("stack", "upgrade", "--back", "--yes")),  # through two functions
        ("prove_celery", ("demo",)),  # in a container
        ("prove_egress_layers", ("policy", "render", "nftables", "--out", UNKNOWN, "--resolver", UNKNOWN)),
        ("prove_move", ("restore", "--yes", "--trust", "/run/public.pem")),
        ("prove_restore", ("pipeline", "erase", UNKNOWN, "--file", "-", "--yes")),
    ],
)
def test_the_calls_of_the_proofs_are_found(name: str, words: tuple[str, ...]) -> None:
    assert words in [call.words for call in calls(ROOT / "bench" / f"{name}.py")]


def test_a_wrong_call_is_found(tmp_path: Path) -> None:
    file = tmp_path / "proof.py"
    file.write_text(
        'def cli(variables, *words):\n    return [python, "-m", "rempart.cli", *words]\n'
        'cli({}, "points")\ncli({}, "site", "fail-over")\nrun(f"{home}/bin/rempart", "status", "--colour")\n'
        'words = ["backup", "shew", name]\nrun("rempart", *words)\nrun("rempart", "ledger", "verify", folder)\n'
    )
    assert list(passing(parsed(file))) == ["cli"]
    found = sorted(filter(None, (unknown(call.words) for call in calls(file))))
    assert found == ["backup shew", "points", "site fail-over", "status --colour"]


def test_s2_what_a_command_prints_is_escaped() -> None:
    """Texts of files and servers must not move the cursor: `rendering.show` and JSON documents print, nothing else."""
    printing = re.compile(r"(?:typer|click)\.s?echo\b|\bprint\(|console\.print")
    found = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "include/rempart/cli").rglob("*.py")
        if printing.search(file.read_text())
    }
    assert found == {"include/rempart/cli/rendering.py", "include/rempart/cli/json_documents.py"}
