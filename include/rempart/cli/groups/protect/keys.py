"""List, make, rewrap and destroy keys of backups."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.PROTECT,
    help="Keys of backups: list who can open them, rewrap or destroy them.",
)


@group.command("list")
def keys_list(as_json: AsJson = False) -> None:
    """Show the keys of every encryption scope: recipients, missing copies, destroyed keys.

    Example:
        rempart keys list
    """
    from rempart.flows.shared import keys as flow
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    platform = open_platform()
    flow.warn_of_escrow(platform.config)
    keyring = flow.open_keyring(platform)
    if as_json:
        json_documents.show({"keys": flow.facts(platform.ledger, keyring)})
        return
    rendering.show(flow.listing(platform.ledger, keyring))


@group.command("new-recipient")
def keys_new_recipient(
    file: Annotated[Path, typer.Argument(help="New file for the identity; store it elsewhere.")],
) -> None:
    """Create an escrow identity in a file that only you can read, and print the lines for rempart.yaml.

    Example:
        rempart keys new-recipient escrow.txt
    """
    from rempart.flows.shared import keys as flow

    recipient = flow.new_recipient(file, datetime.now(UTC))
    rendering.tell(
        f"{file} opens every backup: move it away from this machine. In rempart.yaml, under backup.recipients:"
    )
    rendering.tell(recipient)


@group.command("destroy")
def keys_destroy(
    scope: Annotated[str, typer.Argument(help="Name of the scope, as in `rempart keys list`.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Destroy the keys of a scope: the data that they sealed becomes unreadable in every copy.

    Other data stays readable.

    Example:
        rempart keys destroy dataset-hotel_bookings-395d
        rempart keys destroy dataset-hotel_bookings-395d --yes
    """
    from rempart.flows.shared import keys as flow
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    flow.warn_of_escrow(platform.config)
    done = flow.destroy(platform.ledger, flow.open_keyring(platform), scope, dry_run=not yes)
    rendering.show(flow.destruction_lines(done, dry_run=not yes))


@group.command("rewrap")
def keys_rewrap(
    opened_with: Annotated[
        Path | None,
        typer.Option("--with", help=("Identity that opens the keys, if the platform's own identity is new.")),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Execute the plan. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Wrap every key for the recipients of rempart.yaml and the platform's own key, and for no other.

    Example:
        rempart keys rewrap --yes
        rempart keys rewrap --with escrow.txt --yes
    """
    from rempart.backup.keys.age import read_identity_file
    from rempart.flows.shared import keys as flow
    from rempart.flows.shared.platform import open_platform

    platform, opener = open_platform(), read_identity_file(opened_with) if opened_with else None
    flow.warn_of_escrow(platform.config)
    keyring = flow.open_keyring(platform)
    done = flow.rewrap(platform.ledger, keyring, opener, dry_run=not yes)
    rendering.show(flow.rewrap_lines(keyring, done, dry_run=not yes))
