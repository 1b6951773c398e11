"""Every block of the documentation is executed by a test, validated here, or says why it is not run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

import click
import numpy as np
import pytest
import yaml
from typer.main import get_command

from rempart.cli import app
from rempart.errors import RempartError
from rempart.flows.monitoring.watch_file import Watch
from rempart.settings import operators
from rempart.settings.config import Config, operators_dir
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.schema import read_yaml
from tests.unit.docsgen.blocks import COMMANDS, ROOT, Block, blocks, calls, of_page, pages, read

EXAMPLE_OPERATOR = {
    "as_of": "2026-11-20",
    "jurisdiction": "FR",
    "owner_jurisdiction": "FR",
    "regions": {"fr-1": {"country": "FR"}},
    "services": {name: {"runs_on": "acme-cloud"} for name in ("api", "object-storage", "managed-postgresql")},
}
"""Operator `acme-cloud` of the examples, which docs/how-to/choose-operators.md declares."""
PLACEHOLDER = re.compile(r"[A-Z][A-Z_0-9-]*(\.\.\.)?|\.\.\.|<.*>|\[.*|\$.*|--.*|-\w")

NO_COMMANDS = frozenset(["rempart egress"])
"""The prefix of the network rules' log lines."""


def some(*languages: str) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in blocks() if block.language in languages]


@pytest.mark.parametrize("block", some(*COMMANDS, "python", "yaml", "json", "sql"))
def test_a_block_says_how_it_is_checked(block: Block) -> None:
    kind, _, rest = block.note.partition(" ")
    assert kind in ("run", "checked", "not"), f"{block}: put a note before it (tests/unit/docsgen/blocks.py)"
    if block.note.startswith("run by "):
        files = [ROOT / name for name in rest.removeprefix("by ").split(" and ")]
        stem = block.page.rsplit("/", 1)[-1].removesuffix(".md")
        for file in files:
            assert stem in file.read_text(encoding="utf-8"), f"{block}: {file.name} does not name the page"
    elif block.note.startswith("not run: "):
        assert len(rest) > len("run: ") + 5, f"{block}: give the reason"


def test_a_page_without_a_note_is_found() -> None:
    text = (
        "<!-- other blocks: not run: a cluster is needed -->\n\n```sh\nls\n```\n\n<!-- run by x -->\n```sh\nls\n```\n"
    )
    assert [block.note for block in of_page("x.md", text)] == ["not run: a cluster is needed", "run by x"]
    assert [block.note for block in of_page("x.md", "```sh\nls\n```\n")] == [""]


def merged(base: Any, change: Any) -> Any:
    if isinstance(base, dict) and isinstance(change, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in change.items()}}
    return change


def as_config(data: dict[str, Any]) -> None:
    catalogue = operators.read_catalogue(operators_dir(ROOT / "rempart.yaml"))
    shipped = read_yaml(ROOT / "rempart.yaml")
    own = merged({**shipped["operators"], "acme-cloud": EXAMPLE_OPERATOR}, data.get("operators", {}))
    whole = merged(shipped, {key: value for key, value in data.items() if key != "operators"})
    Config.model_validate({**whole, "operators": operators.merge(catalogue, own)})


def as_pipeline(data: dict[str, Any]) -> None:
    if "name" not in data or "source" not in data:
        data = {**read_yaml(ROOT / "include" / "pipelines" / "hotel_bookings.yaml"), **data}
    ModelPipeline.model_validate(data)


KINDS = {
    "a pipeline file": as_pipeline,
    "watch.yaml": Watch.model_validate,
}


def plain(block: Block) -> Any:
    """The block's data, with values of the right form in the place of those that the page leaves open."""
    text = block.text.replace("sha256:...", f"sha256:{'0' * 64}")
    for letter in "qp":
        text = text.replace("age1...", f"age1{letter * 58}", 1)
    return yaml.safe_load(text)


CHECKED = [param for param in some("yaml", "json", "python") if param.values[0].note.startswith("checked as ")]


@pytest.mark.parametrize("block", CHECKED)
def test_a_block_is_a_valid_part_of_its_file(block: Block) -> None:
    kind = block.note.removeprefix("checked as ")
    if kind == "JSON":
        assert json.loads(block.text)
    elif kind == "YAML":
        assert yaml.safe_load(block.text)
    elif kind == "a trainer":
        space: dict[str, Any] = {}
        exec(compile(block.text, str(block), "exec"), space)  # noqa: S102 - our own page
        inputs = np.array([[float(i), float(i % 3)] for i in range(30)])
        model = space["fit"](inputs, inputs[:, 0] * 2, {}, 7)
        assert model.predict(inputs).shape == (30,)
    elif kind == "rempart.yaml":
        # a reader enters the parts of a page one after the other
        data: dict[str, Any] = {}
        for earlier in blocks():
            if earlier.page == block.page and earlier.note == block.note and earlier.line <= block.line:
                data = merged(data, plain(earlier))
        as_config(data)
    else:
        KINDS[kind](plain(block))


def test_a_wrong_part_of_a_file_is_refused() -> None:
    for check, data in ((as_config, {"backup": {"evry": "1h"}}), (as_pipeline, {"gate": {"metric": "luck"}})):
        with pytest.raises((ValueError, RempartError)):
            check(data)


@cache
def root() -> click.Command:
    return get_command(app)


def command(arguments: list[str]) -> tuple[click.Command, list[str], list[str]]:
    """The command that arguments lead to, the groups on the way, and what is left for its own parser."""
    found, names, rest = root(), [], list(arguments)
    while rest and rest[0] in getattr(found, "commands", {}):
        names.append(rest[0])
        found = found.commands[rest.pop(0)]  # type: ignore[attr-defined] # a group has commands
    return found, names, rest


def wrong_usage(arguments: list[str]) -> str:
    """Why the command line would refuse arguments before it does anything; empty if it would not."""
    found, names, rest = command(arguments)
    if "--help" in rest or "..." in rest:
        return ""
    if hasattr(found, "commands") and not getattr(found, "invoke_without_command", False):
        return f"no command {' '.join([*names, *rest[:1]])}"
    try:
        values, left, _ = found.make_parser(click.Context(found, info_name=" ".join(names))).parse_args(args=rest)
    except Exception as refusal:  # click's, or typer's copy of it
        return str(getattr(refusal, "message", refusal))
    missing = [
        param.name
        for param in found.params
        if param.param_type_name == "argument" and param.required and values.get(param.name) in (None, (), [])
    ]
    return f"left over: {left}" if left else f"missing: {missing}" if missing else ""


@pytest.mark.parametrize("block", some(*COMMANDS))
def test_the_command_line_knows_every_call_of_rempart(block: Block) -> None:
    refused = {
        " ".join(arguments): why
        for arguments in calls(block, "rempart")
        if arguments and (why := wrong_usage(arguments))
    }
    assert refused == {}, str(block)


def test_a_call_that_the_command_line_refuses_is_found() -> None:
    for arguments in (["nonsense"], ["status", "--colour"], ["status", "extra"]):
        assert wrong_usage(arguments)
    assert wrong_usage(["status"]) == ""


def named_in_prose(page: str) -> Iterator[list[str]]:
    text = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.M | re.S)
    for inline in re.findall(r"`(?:\.venv/bin/)?rempart ([^`]+)`", text):
        yield inline.split()


@pytest.mark.parametrize("page", [page for page in pages() if not page.endswith("/wrong-inputs.md")])
def test_prose_names_commands_that_exist(page: str) -> None:
    unknown = set()
    for words in named_in_prose(page):
        found, names, rest = command(words)
        if hasattr(found, "commands") and rest and not PLACEHOLDER.fullmatch(rest[0]):
            unknown.add(" ".join(["rempart", *names, rest[0]]))
    assert unknown - NO_COMMANDS == set()


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    proofs = {f"prove-{file.stem.removeprefix('prove_').replace('_', '-')}" for file in ROOT.glob("bench/prove_*.py")}
    return set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.M)) | proofs


@pytest.mark.parametrize("block", some(*COMMANDS))
def test_make_has_every_target_of_a_page(block: Block) -> None:
    named = {word for words in calls(block, "make") for word in words if "=" not in word and not word.startswith("-")}
    assert named - make_targets() == set(), str(block)


@pytest.mark.parametrize("block", some("sh", "bash"))
def test_the_shell_can_read_a_block(block: Block) -> None:
    text = re.sub(r"<([a-z]+)>", r"\1", block.text)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}: {done.stderr}"
