"""Manage the people who may use Airflow."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rempart.cli import panels

group = typer.Typer(no_args_is_help=True, rich_help_panel=panels.GOVERN, help="Users of Airflow, each with a role.")

Name = Annotated[str, typer.Argument(help="Name of the user.")]
Ask = Annotated[bool, typer.Option("--ask", help="Ask for the password, or read it from the standard input.")]


def _given() -> str:
    """Read a password twice from the terminal without echo, or from the first line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def _show(password: str, *, given: bool) -> None:
    if not given:
        typer.echo(f"password, shown once: {password}")


@group.command("list")
def list_users() -> None:
    """Show all people with role and last login; evidence uses their numbers."""
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    typer.echo(f"{'number':>6}  {'name':<24}{'role':<20}{'last login':<18}")
    for person in people.everybody(people.users_of(open_platform())):
        role = ", ".join(person.roles) or "none"
        last = f"{person.last_login:%Y-%m-%d %H:%M}" if person.last_login else "never"
        typer.echo(
            f"{person.number:>6}  {person.name:<24}{role:<20}{last:<18}{'' if person.active else 'switched off'}"
        )


@group.command("add")
def add_user(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, auditor, operator or admin.")],
    ask: Ask = False,
) -> None:
    """Add a person. The password is generated and shown once, unless you give one."""
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    password = _given() if ask else people.new_password()
    person = people.add(people.users_of(open_platform()), name, role, password)
    typer.echo(f"{person.name} can log in as {role}")
    _show(password, given=ask)


@group.command("remove")
def remove_user(name: Name) -> None:
    """Remove a user's access. Their sessions end within half a minute."""
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    people.remove(people.users_of(open_platform()), name)
    typer.echo(f"{name} was removed")


@group.command("password")
def change_password(name: Name, ask: Ask = False) -> None:
    """Set another password, which ends the person's sessions within half a minute."""
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    password = _given() if ask else people.new_password()
    people.change_password(people.users_of(open_platform()), name, password)
    typer.echo(f"the password of {name} was changed")
    _show(password, given=ask)


@group.command("role")
def change_role(name: Name, role: Annotated[str, typer.Argument(help="viewer, auditor, operator or admin.")]) -> None:
    """Set another role; it applies within half a minute."""
    from rempart.flows.governance import people
    from rempart.flows.shared.platform import open_platform

    people.change_role(people.users_of(open_platform()), name, role)
    typer.echo(f"{name} now has role {role}")
