"""The commands `rempart model approve`, `reject` (only with `--yes` is anything changed) and `authors`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle.remove import DryRun, Yes, check_one

Name = Annotated[str, typer.Argument(help="Name of the model, which is the name of its pipeline.")]
Version = Annotated[str, typer.Argument(help="Version that waits: `rempart model list` shows it.")]
Reason = Annotated[str, typer.Option(help="Why, in 10 characters or more. It goes into the evidence: write no names.")]
User = Annotated[
    str,
    typer.Option(help="Your user name in Airflow. Its password is asked for, or read from the standard input."),
]


def _decision(approves: bool, told: str) -> Callable[..., None]:
    """Return the command that approves, or that rejects."""

    def decide(
        name: Name,
        version: Version,
        reason: Reason,
        user: User = "",
        dry_run: DryRun = False,
        yes: Yes = False,
        as_json: AsJson = False,
    ) -> None:
        _decide(name, version, reason, user, approves=approves, dry_run=dry_run, yes=yes, as_json=as_json)

    decide.__doc__ = told
    return decide


approve = _decision(
    True,
    """Promote a candidate that passed the gate and waits for a person (`gate: {approval: ...}`).

    The same rules hold as in Airflow: role, four eyes, time. Its files are compared with the record first. If another
    version became champion since, it is judged anew and not promoted. Exit code 1: it was not promoted.

    Example:
        rempart model approve hotel_bookings 3 --user marie --reason "error by season is even"
        rempart model approve hotel_bookings 3 --user marie --reason "error by season is even" --yes
    """,
)
reject = _decision(
    False,
    """Reject a candidate that waits for a person. The champion stays. Exit code 1: it was not rejected.

    Example:
        rempart model reject hotel_bookings 3 --user marie --reason "too few bookings of groups" --yes
    """,
)


def _decide(
    name: str, version: str, reason: str, user: str, *, approves: bool, dry_run: bool, yes: bool, as_json: bool
) -> None:
    from rempart.cli.views import names
    from rempart.flows.approval import directory
    from rempart.flows.approval.decide import Desk
    from rempart.flows.approval.rules import Reply
    from rempart.flows.governance.people import users_of
    from rempart.flows.shared.platform import open_platform
    from rempart.flows.training.explained.keep import keep
    from rempart.settings import pipelines

    check_one(dry_run, yes)
    json_documents.begin(as_json)
    spec = pipelines.with_model(pipelines.named(names.pipeline(name, pipelines.names())))
    platform = open_platform()
    users = users_of(platform)
    by = directory.proven(users, user, _password(platform.config.access.auth_manager == "fab", user))
    reply = Reply(approves, by, reason, platform.clock())
    done = Desk(platform, spec).decide(version, reply, directory.directory(users), dry_run=not yes)
    if as_json:
        json_documents.show(done)
    else:
        rendering.tell(done.told)
        if not yes:
            rendering.tell("Nothing was changed. To decide, add --yes.")
    if yes and done.became != "waits":  # the card tells the decision, as after an answer in Airflow
        keep(platform, spec, version)
    wanted = "promoted" if approves else "rejected"
    raise typer.Exit(0 if done.became == wanted or (approves and done.promoted) else 1)


def _password(asked: bool, user: str) -> str:
    """Return the password of a person, from the terminal without echo or the first line of the standard input."""
    if not asked:
        return ""
    if not user:
        raise typer.BadParameter("pass --user with your user name in Airflow: an approval needs to know who gives it")
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def authors(
    committer: Annotated[
        list[str], typer.Option("--is", help="A committer's e-mail in git and the number of the user: a@b.eu=3.")
    ],
) -> None:
    """Write include/authors.json from git: who last changed each pipeline file and trainer, by number, for four eyes.

    Run it in the checkout from which an image is built. Files with changes that are not committed are left out, so
    their author is unknown and two people must approve.

    Example:
        rempart model authors --is marie@example.eu=3 --is pierre@example.eu=5
    """
    from rempart.flows.approval import committers

    known = committers.parsed(committer)
    found = committers.write(known)
    for file, number in found.items():
        rendering.tell(f"{file}: {f'user {number}' if number else 'unknown'}")
