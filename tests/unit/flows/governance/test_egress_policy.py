"""`rempart policy render` and `explain`, as a person uses them."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rempart.cli import app
from rempart.errors import ConfigError
from rempart.flows.governance import egress_policy
from rempart.settings.config import Config
from rempart.sovereignty.egress import rules
from rempart.training.kubernetes import train_job

TODAY = date(2026, 11, 24)
PLACE = {"operator": "good", "service": "api", "region": "here"}
DATA: dict[str, Any] = {
    "operators": {
        "good": {
            "jurisdiction": "FR",
            "owner_jurisdiction": "FR",
            "regions": {"here": {"country": "FR"}},
            "services": {
                "api": {"runs_on": "good"},
                "object-storage": {"runs_on": "good", "endpoints": "http://127.0.0.1"},
            },
        },
        "foreign": {
            "jurisdiction": "US",
            "owner_jurisdiction": "US",
            "regions": {"here": {"country": "US"}},
            "services": {"api": {"runs_on": "foreign"}},
        },
    },
    "sites": {"home": {"operator": "good", "region": "here", "connection": "s3_home"}},
    "active_site": "home",
    "machine": PLACE,
    "policy": {"internal": {"jurisdictions": ["EU"], "owner_jurisdictions": ["EU"]}},
    "hosts": {"api.good.test:443": PLACE, "192.0.2.7:80": PLACE, "api.foreign.test": PLACE | {"operator": "foreign"}},
    "retention": {},
    "backup": {"site": "home"},
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rempart.yaml").write_text(yaml.safe_dump(DATA), encoding="utf-8")
    monkeypatch.setenv("REMPART_HOME", str(tmp_path))
    monkeypatch.setenv("REMPART_VAR", str(tmp_path / "var"))
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["policy", *words])


def test_rules_are_written_and_a_name_that_does_not_resolve_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress_policy.socket, "getaddrinfo", _fails)
    done = run("render", "nftables", "--out", str(project / "rules"), "--user", str(os.getuid()))
    assert done.exit_code == 1  # told, and told by the exit code
    assert "api.good.test did not resolve" in done.output
    text = (project / "rules" / "rempart-egress.nft").read_text(encoding="utf-8")
    assert "192.0.2.7 . 80" in text
    assert f"meta skuid {{ {os.getuid()} }}" in text


def test_cilium_needs_no_address(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_policy.socket, "getaddrinfo", _fails)
    done = run("render", "cilium", "--namespace", "mlops")
    assert done.exit_code == 0
    assert "matchName: api.good.test" in done.output
    assert "namespace: mlops" in done.output


def _fails(*args: Any) -> list[Any]:
    raise OSError("no resolver")


@pytest.mark.parametrize("words", [("render", "iptables"), ("render", "kubernetes", "--api-server", "api.example:443")])
def test_what_cannot_be_rendered_is_refused(project: Path, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert isinstance(done.exception, ConfigError)


def test_a_user_who_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="User 'nobody-of-that-name' does not exist"):
        egress_policy.uid_of("nobody-of-that-name")


@pytest.mark.parametrize(
    ("host", "code", "says"),
    [
        ("api.good.test:443", 0, "by hosts.api.good.test:443:"),
        ("api.good.test:80", 1, "on port 443 only"),
        ("api.foreign.test", 1, "policy.internal.jurisdictions"),
        ("example.org", 1, "belongs to no declared"),
        ("localhost:5432", 0, "this machine"),
    ],
)
def test_a_host_is_explained(project: Path, host: str, code: int, says: str) -> None:
    done = run("explain", host)
    assert done.exit_code == code, done.output
    assert says in done.output


def test_resolvers_are_read_and_loopback_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# x\nnameserver 127.0.0.53\nnameserver 192.0.2.53\noptions edns0\nnameserver 192.0.2.53\n", "utf-8"
    )
    assert egress_policy.resolvers([file, tmp_path / "none"]) == ("192.0.2.53",)


def test_no_secret_stands_in_any_output() -> None:
    config = Config.model_validate(DATA)
    found = rules(config, {"pg_ledger": "postgresql://ledger:hunter2@db.good.test:5432/ledger"}, on=TODAY)
    texts = [
        text
        for form in ("kubernetes", "cilium", "nftables")
        for text in egress_policy.write_rules(found, form, resolve=lambda name: ("203.0.113.9",))[0].values()  # type: ignore[arg-type] # one of the three
    ]
    assert all("db.good.test" in text for text in texts)
    assert not any("hunter2" in text for text in texts)


def test_the_runtime_of_each_pool_that_names_one_is_rendered_for_clusters(project: Path) -> None:
    place = PLACE | {"kubernetes_connection": "k8s_a"}
    pools = {
        "a": place | {"namespace": "one", "runtime": "rempart", "node_selector": {"disk": "fast"}},
        "b": place | {"namespace": "two"},
    }
    (project / "rempart.yaml").write_text(yaml.safe_dump(DATA | {"gpu_pools": pools}), encoding="utf-8")
    settings = Config.model_validate(DATA | {"gpu_pools": pools})
    for form, written in (("kubernetes", True), ("cilium", True), ("nftables", False)):
        done = run("render", form, "--out", str(project / form))
        assert done.exit_code == (form != "cilium"), done.output  # the names resolve nowhere
        assert (project / form / "trainingruntime-a.yaml").exists() == written
        assert not (project / form / "trainingruntime-b.yaml").exists()
    text = (project / "kubernetes" / "trainingruntime-a.yaml").read_text("utf-8")
    assert yaml.safe_load(text) == train_job.runtime(settings, "a") and "disk: fast" in text
