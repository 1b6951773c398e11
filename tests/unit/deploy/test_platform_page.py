"""docs/how-to/kubernetes.md: its commands and files exist and work."""

from __future__ import annotations

import re
import shlex
import socket
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import typer
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.flows.shared import platform
from rempart.settings import pipelines
from tests.unit.deploy.platform_files import (
    PAGE,
    RESTORE,
    ROOT,
    every,
    given,
    project,
    settings,
)
from tests.unit.deploy.test_kubernetes import documents


def test_the_page_names_files_and_commands_that_exist() -> None:
    for path in re.findall(r"(?<![\w/])deploy/[\w./-]*\w", PAGE):
        assert path.startswith("deploy/kubernetes/examples/acme") or (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / "how-to" / link).exists(), link
    told = CliRunner().invoke(app, ["stack", "init", "--help"]).output
    assert "--kubernetes" in told
    labels = {f"rempart.eu/{name}=true" for name in ("front", "jobs", "restore")}
    assert set(re.findall(r"rempart\.eu/\w+=true", PAGE)) == labels


def test_the_page_delivers_the_sample_before_it_starts_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a delivery, ingestion succeeds with nothing, and no stage after it starts."""
    code, _, after = PAGE.partition("python - <<'PY'\n")[2].partition("\nPY\n")
    written: list[tuple[str, str]] = []
    site = SimpleNamespace(write=lambda bucket, key, body, **_: written.append((bucket, key)))
    opened = SimpleNamespace(config=settings(), active_site=lambda classification: site)
    monkeypatch.setattr(platform, "open_platform", lambda: opened)
    monkeypatch.chdir(ROOT)
    exec(compile(code, "the page", "exec"), {})  # noqa: S102 # the page's own lines
    prefix = pipelines.named("hotel_bookings").source.prefix
    assert len(written) > 10
    assert all(bucket == "landing" and key.startswith(prefix) for bucket, key in written)
    assert "run trigger ingest_hotel_bookings" in after


def test_the_pages_patch_has_every_pod_of_ours_verify_the_databases_certificate() -> None:
    """It replaces a variable by its place, so the places have to be as the page takes them to be."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    (block,) = (yaml.safe_load(text) for text in blocks if "postgresql-ca" in text)
    (patch,) = block
    ours = [
        *every("Job"),
        *every("Deployment"),
        *(document for document in documents(RESTORE) if document["kind"] == "Job"),
    ]
    kind, name = (re.compile(patch["target"][key]) for key in ("kind", "name"))
    assert len(ours) == 4
    for resource in ours:
        assert kind.fullmatch(resource["kind"]) and name.fullmatch(resource["metadata"]["name"]), resource["metadata"]
        (container,) = resource["spec"]["template"]["spec"]["containers"]
        for step in yaml.safe_load(patch["patch"]):
            *_, part, place = step["path"].split("/")
            if part == "env" and place != "-":
                container["env"][int(place)] = step["value"]
            elif part == "env":
                container["env"].append(step["value"])
        assert {entry["name"]: entry["value"] for entry in container["env"]} == {
            "REMPART_CONTAINERS": "kubernetes",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/run/postgresql-ca/ca.pem",
        }


def test_the_page_starts_the_release_after_the_schemas_were_migrated() -> None:
    """A block that applies the preparing job and then starts the chart's release waits for the job in between."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    both = [block for block in blocks if "examples/acme  " in block and "\nhelm upgrade" in block]
    assert both
    for block in both:
        between = block.partition("examples/acme  ")[2].partition("\nhelm upgrade")[0]
        assert "kubectl wait --namespace airflow --for=condition=complete" in between, block


def typed(page: str) -> list[list[str]]:
    """Commands of ours that a page tells a person to type, here or in a pod, as words."""
    text = "".join(re.findall(r"```bash\n(.*?)```", page, re.S)).replace("\\\n", " ")
    lines = [line.partition("   #")[0].partition(" && ")[0] for line in text.splitlines()]
    found = [re.search(r"(?:^|-- |^REMPART_VAR=\S+ )(rempart .*|make .*)$", line) for line in lines]
    return [shlex.split(matched[1].partition(" > ")[0], comments=True) for matched in found if matched]


@pytest.mark.parametrize("name", ["kubernetes", "gpu-pools"])
def test_each_command_of_a_page_is_one_with_such_options(name: str) -> None:
    commands = typed((ROOT / "docs" / "how-to" / f"{name}.md").read_text("utf-8"))
    assert len(commands) >= 5
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    targets |= {file.stem.replace("_", "-") for file in (ROOT / "bench").glob("prove_*.py")}
    for program, *words in commands:
        if program == "make":
            assert words[0] in targets
            continue
        command, context = typer.main.get_command(app), None
        while isinstance(command, click.Group):
            found = command.commands.get(words[0])
            assert found, f"rempart {' '.join(words)}"
            command, words = found, words[1:]
        with command.make_context(command.name, [*words], parent=context):
            pass  # raises UsageError for an option or an argument that the command does not have


def test_the_configuration_of_the_page_is_valid_and_its_policy_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (given() | {"REMPART_HOME": str(project()), "REMPART_VAR": str(tmp_path)}).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("203.0.113.9", 443))])
    asked = [words[1:] for words in typed(PAGE) if words[:2] in (["rempart", "config"], ["rempart", "policy"])]
    assert [words[:2] for words in asked] == [["config", "check"], ["policy", "show"], ["policy", "render"]]
    monkeypatch.chdir(tmp_path)
    for words in asked:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, (words, done.output)
    applied = re.findall(r"kubectl apply -f (policies/\S+)", PAGE)
    assert applied and all((tmp_path / file).is_file() for file in applied)
