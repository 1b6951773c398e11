"""Manage the people who may use Airflow."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson

ROLES = "viewer, auditor, caller, operator or admin."

group = typer.Typer(no_args_is_help=True, rich_help_panel=panels.GOVERN, help="Users of Airflow, each with a role.")

Name = Annotated[str, typer.Argument(help="Name of the user.")]
Yes = Annotated[bool, typer.Option("--yes", help="Remove. Without it the user is shown and nothing is changed.")]
Ask = Annotated[bool, typer.Option("--ask", help="Ask for the password, or read it from the standard input.")]


def _given() -> str:
    """Read a password twice from the terminal without echo, or from the first line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def _show(password: str, *, given: bool) -> None:
    if not given:
        rendering.tell(f"password, shown once: {password}")


@group.command("list")
def list_users(as_json: AsJson = False) -> None:
    """Show all people with role and last login; evidence uses their numbers.

    Example:
        rempart users list
    """
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    everybody = people.everybody(people.users_of(open_platform()))
    if as_json:
        json_documents.show({"users": everybody})
        return
    rendering.tell(f"{'number':>6}  {'name':<24}{'role':<20}{'last login':<18}")
    for person in everybody:
        role = ", ".join(person.roles) or "none"
        last = f"{person.last_login:%Y-%m-%d %H:%M}" if person.last_login else "never"
        rendering.tell(
            f"{person.number:>6}  {person.name:<24}{role:<20}{last:<18}{'' if person.active else 'switched off'}"
        )


@group.command("add")
def add_user(
    name: Name,
    role: Annotated[str, typer.Option(help=ROLES)],
    ask: Ask = False,
) -> None:
    """Add a person. The password is generated and shown once, unless you give one.

    Example:
        rempart users add marie --role operator
    """
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    password = _given() if ask else people.new_password()
    person = people.add(people.users_of(open_platform()), name, role, password)
    rendering.tell(f"{person.name} can log in as {role}")
    _show(password, given=ask)


@group.command("remove")
def remove_user(name: Name, yes: Yes = False) -> None:
    """Remove a user and their access. Their sessions end within half a minute.

    Example:
        rempart users remove marie
        rempart users remove marie --yes
    """
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    users = people.users_of(open_platform())
    if not yes:
        person = people.named(users, name)
        rendering.tell(
            f"{person.name}, number {person.number} in evidence, would lose the role {', '.join(person.roles)}"
        )
        rendering.tell("Nothing was changed. Pass --yes to remove the user.")
        return
    people.remove(users, name)
    rendering.tell(f"{name} was removed")


@group.command("password")
def change_password(name: Name, ask: Ask = False) -> None:
    """Set another password, which ends the person's sessions within half a minute.

    Example:
        rempart users password marie --ask
    """
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    password = _given() if ask else people.new_password()
    people.change_password(people.users_of(open_platform()), name, password)
    rendering.tell(f"the password of {name} was changed")
    _show(password, given=ask)


@group.command("role")
def change_role(name: Name, role: Annotated[str, typer.Argument(help=ROLES)]) -> None:
    """Set another role; it applies within half a minute.

    Example:
        rempart users role marie auditor
    """
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    people.change_role(people.users_of(open_platform()), name, role)
    rendering.tell(f"{name} now has role {role}")


@group.command("client")
def issue_key(
    name: Annotated[str, typer.Argument(help="Name of the program, not of a person: evidence holds it for years.")],
    pipelines: Annotated[
        str, typer.Option(help="Pipelines whose champions it may ask, with commas and no spaces: loans,returns.")
    ] = "",
    per_minute: Annotated[int, typer.Option(help="Requests a minute, for each scorer process.")] = 600,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="It may read the scorer's metrics, for Prometheus.")
    ] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke the key of the program.")] = False,
    more: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="")] = None,
) -> None:
    """Issue a key for a program that asks the scorer for predictions, or revoke it. The key is shown once.

    The standard output has the key alone, for `KEY=$(...)`. A second key replaces the first one. A new key works at
    once, a revocation takes effect within seconds, and both are evidence.

    Example:
        rempart users client web-shop --pipelines hotel_bookings --per-minute 600
        rempart users client prometheus --metrics
        rempart users client web-shop --revoke
    """
    from rempart.flows.governance import clients
    from rempart.flows.prediction_log import keys
    from rempart.flows.shared.platform import open_platform
    from rempart.settings.pipeline import ModelPipeline
    from rempart.settings.pipelines import load_all

    if more:
        raise typer.BadParameter(
            "write several pipelines with commas and no spaces, such as --pipelines loans,returns",
            param_hint="--pipelines",
        )
    platform = open_platform()
    if revoke:
        clients.revoke(platform.ledger, name)
        rendering.tell(f"the key of {name} was revoked")
        return
    known = {pipeline: found for pipeline, found in load_all().items() if isinstance(found, ModelPipeline)}
    chosen = [each.strip() for each in pipelines.split(",") if each.strip()]
    for pipeline in chosen:  # the scorer answers nothing that it cannot log
        if pipeline in known:
            keys.make(platform, known[pipeline])
    key = clients.issue(platform.ledger, name, chosen, per_minute, known, metrics=metrics)
    what = [
        *([f"ask for predictions of {', '.join(chosen)}"] if chosen else []),
        *(["read metrics"] if metrics else []),
    ]
    rendering.tell(f"{name} may {' and '.join(what)}. The key, shown once:", err=True)
    rendering.tell(key)


@group.command("clients")
def list_clients(as_json: AsJson = False) -> None:
    """Show the programs that may ask the scorer for predictions, without their keys.

    Example:
        rempart users clients
    """
    from rempart.flows.governance import clients
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    known = clients.clients_on(open_platform().ledger)
    if as_json:
        told = [client.as_json() for client in known]
        json_documents.show({"clients": [{key: each[key] for key in each if key != "sha256"} for each in told]})
        return
    rendering.tell(f"{'name':<24}{'per minute':>12}  pipelines")
    for client in known:
        opens = ", ".join([*client.pipelines, *(["(metrics)"] if client.metrics else [])])
        rendering.tell(f"{client.name:<24}{client.per_minute:>12}  {opens}")
