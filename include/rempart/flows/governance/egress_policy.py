"""Render the allow-list as network rules, or explain it for one host."""

from __future__ import annotations

import pwd
import socket
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, cast, get_args

import yaml

from rempart.errors import ConfigError
from rempart.settings import config as configuration
from rempart.settings.config import Config, Connections
from rempart.sovereignty import egress, render
from rempart.sovereignty.egress import EgressRules
from rempart.sovereignty.places import split_host
from rempart.training.kubernetes import train_job

RESOLVER_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
Resolve = Callable[[str], tuple[str, ...]]


def resolve(name: str) -> tuple[str, ...]:
    """Return every address of a name as this machine resolves it; empty if it does not."""
    try:
        return tuple(sorted({str(answer[4][0]) for answer in socket.getaddrinfo(name, None)}))
    except OSError:  # told by `unresolved`
        return ()


def uid_of(user: str) -> int:
    """Return a user's number, by name or number. Raises ConfigError."""
    try:
        return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError as cause:
        raise ConfigError(
            f"User '{user}' does not exist on this machine", "Choose an existing user, or pass a number."
        ) from cause


def resolvers(files: Iterable[Path] = RESOLVER_FILES) -> tuple[str, ...]:
    """Return the DNS servers of this machine without loopback, which needs no rule."""
    texts = [file.read_text("utf-8") for file in files if file.is_file()]
    lines = [line.split() for text in texts for line in text.splitlines()]
    servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return tuple(dict.fromkeys(server for server in servers if not egress.is_this_machine(server)))


def rules(config: Config, connections: Connections, *, on: date) -> EgressRules:
    """Return the allow-list of this configuration, with the connections as they resolve here."""
    return egress.rules(config, egress.endpoints(config, connections), on=on)


def write_rules(
    egress_rules: EgressRules,
    form: render.Form,
    *,
    pools: Iterable[str] = (),
    namespace: str = "airflow",
    api_servers: Sequence[str] = (),
    users: Sequence[str] = (),
    resolve: Resolve = resolve,
    resolvers: Sequence[str] = (),
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the files of one form by name, and the unresolved names, which the files cannot allow.

    `pools` are namespaces of jobs in addition to Airflow's `namespace`. Raises ConfigError.
    """
    cluster = render.Cluster(namespace, tuple(pools), tuple(map(_address, api_servers)))
    if form == "cilium":
        return render.cilium(egress_rules, cluster), ()
    destinations = render.destinations(egress_rules, form)
    addresses = {name: resolve(name) for name in render.names(destinations)}
    missing = render.unresolved(destinations, addresses)
    if form == "kubernetes":
        return render.kubernetes(egress_rules, addresses, cluster), missing
    text = render.nftables(egress_rules, addresses, uids=[uid_of(user) for user in users], resolvers=resolvers)
    return {"rempart-egress.nft": text}, missing


def from_configuration(form: str, on: date, **options: Any) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return `write_rules` for the project's rempart.yaml; for clusters, with the runtime of each pool that has one.

    Raises ConfigError.
    """
    if form not in get_args(render.Form):
        raise ConfigError(
            f"Form '{form}' of rules does not exist", f"Choose one of: {', '.join(get_args(render.Form))}."
        )
    loaded = configuration.load()
    found = rules(loaded, configuration.environment_connections, on=on)
    pools = dict.fromkeys(pool.namespace for pool in loaded.gpu_pools.values())
    files, missing = write_rules(found, cast(render.Form, form), pools=pools, **options)
    return (files if form == "nftables" else files | runtimes(loaded)), missing


def runtimes(config: Config) -> dict[str, str]:
    """Return the TrainingRuntime of each pool that names one, by file name, for jobs on several nodes."""
    texts = {}
    for name, pool in config.gpu_pools.items():
        if pool.runtime:
            head = (
                f"# Pods of jobs on several nodes in pool {name}, from rempart.yaml by `rempart policy "
                "render`.\n# Kubeflow Trainer reads it; render and apply it again when the pool or "
                "training.image changes.\n"
            )
            body = yaml.safe_dump(train_job.runtime(config, name), sort_keys=False, width=110)
            texts[f"trainingruntime-{name}.yaml"] = head + body
    return texts


def _address(text: str) -> tuple[str, int]:
    host, port = split_host(text)
    if not egress.is_address(host):
        raise ConfigError(
            f"--api-server: '{text}' is not an address", "Give it as ADDRESS:PORT, such as 10.0.0.1:6443."
        )
    return host, port or 443


def save(files: dict[str, str], folder: Path) -> list[Path]:
    """Write rendered files into a folder. Return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def explain(config: Config, egress_rules: EgressRules, target: str, *, on: date) -> tuple[bool, str]:
    """Explain whether a task may reach `host[:port]`, as lines for people. Raises ConfigError for an invalid port."""
    try:
        host, port = split_host(target)
    except ValueError as cause:
        raise ConfigError(
            f"'{target[:80]}' is not a host with a port: {cause}", "Write HOST, HOST:PORT or [IPv6 address]:PORT."
        ) from cause
    if egress.is_this_machine(host):
        return True, f"{target}: allowed. It is this machine."
    allowed = egress.is_allowed(egress_rules, host, port)
    lines = [f"{target}: {'allowed' if allowed else 'refused'}"]
    for destination in egress_rules.allowed:
        if not destination.classifications and egress.matches(destination, host, port):
            lines.append(f"  yes  {destination.why}: a server of Airflow's own settings")
    named = [judged for judged in egress_rules.judged if egress.matches(judged.destination, host, port)]
    for entry in named:
        lines += [
            f"  by {entry.destination.why}:",
            *(f"    {line}" for d in entry.decisions for line in d.explain().splitlines()),
        ]
    if not allowed and not named:
        against = egress.decision_against(config, egress_rules, host, port, on=on)
        lines += [f"  no   {r.rule}: {r.fact}\n       what to do: {r.remedy}" for r in against.against]
    if any(egress.matches(pull, host, port) for pull in egress_rules.pulls):
        lines.append("  note: nodes pull images from there; tasks do not connect to it")
    return allowed, "\n".join(lines)
