"""Show, export, verify and repair the ledger."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson
from rempart.counts import counted

group = typer.Typer(
    no_args_is_help=True, rich_help_panel=panels.GOVERN, help="Evidence: show it, export it, verify it."
)


@group.command("verify")
def ledger_verify(
    place: Annotated[Path, typer.Argument(help="Folder of an export, or one .jsonl file.")],
    key: Annotated[
        list[str] | None, typer.Option(help="Public key with which the ledger starts: a .pem file, or hex. Required.")
    ] = None,
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of the second operator's checkpoints.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify an export offline. Exit code 1 names the first broken record. Needs no platform and no network.

    Example:
        rempart ledger verify audit --key public.pem
    """
    from rempart.ledger import files

    if not key:
        raise typer.BadParameter(
            "pass the ledger's first public key: `rempart ledger export` writes it as public.pem into the folder. Who "
            "changed the folder may have changed that copy, too, so prefer one that you kept elsewhere",
            param_hint="--key",
        )
    verdict = files.verify_files(place, key, checkpoints)
    if as_json:
        broken = verdict.broken.error() if verdict.broken else None
        json_documents.show({**asdict(verdict), "ok": verdict.ok, "broken": broken})
    rendering.show(() if as_json else files.report(verdict))
    if not verdict.ok:
        raise typer.Exit(1)


@group.command("export")
def ledger_export(folder: Annotated[Path, typer.Argument(help="Created if missing.")]) -> None:
    """Write every record, every checkpoint and the first public key into a folder, for an auditor.

    It warns if no checkpoint covers the newest records: the DAG export_evidence writes one.

    Example:
        rempart ledger export audit
    """
    from rempart.cli.views import text
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    platform = open_platform()
    written, every = evidence.export_to(platform, folder), platform.config.evidence.every.total_seconds()
    records, checkpoints = counted(written.records, "record"), counted(written.checkpoints, "checkpoint")
    rendering.tell(f"{written.folder}: {records}, {checkpoints}, public.pem")
    if written.uncovered:
        newest = f"the newest {counted(written.uncovered, 'record')}" if written.covered else "the records"
        rendering.tell(
            f"warning: no checkpoint covers {newest}: nobody finds out if they are removed or rewritten. Start the "
            f"DAG export_evidence in Airflow (it runs every {text.span(every)} by itself), then export again.",
            err=True,
        )


@group.command("show")
def ledger_show(
    after: Annotated[
        int | None, typer.Option(help=("Start after the record of this number; default: the newest records."))
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of records.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show stored records: one JSON text a line, or with `--json` one document. Control characters are escaped.

    To verify signatures, export the records: `rempart ledger export`.

    Example:
        rempart ledger show --limit 5
    """
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    json_documents.begin(as_json)
    records = evidence.show(open_platform().ledger, after, limit)
    if as_json:
        json_documents.show([json.loads(text) for text in records])
    rendering.show(() if as_json else records)


@group.command("rotate-key")
def ledger_rotate_key(
    yes: Annotated[
        bool, typer.Option("--yes", help="Rotate. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Replace the signing key: the old key signs the new one, and is deleted.

    Example:
        rempart ledger rotate-key
        rempart ledger rotate-key --yes
    """
    from rempart.deployment.setup import credentials, paths
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    if not yes:
        rendering.tell(
            f"Key {open_platform().signer().id} would sign a new key, and would then be deleted. It cannot come back."
        )
        rendering.tell("Every process that still has it must be restarted. Nothing was changed. Pass --yes to rotate.")
        return
    credentials.prepare_ledger_key(paths.current())
    record = evidence.rotate_key(open_platform())
    rendering.tell(
        f"record {record.seq}: key {record.subject} signs from now on and replaces {record.body['replaces']}"
    )
    rendering.tell(credentials.after_rotation(adopted=credentials.adopt_ledger_key(paths.current())))


@group.command("repair")
def ledger_repair(
    yes: Annotated[
        bool,
        typer.Option("--yes", help=("Repair the objects. Without it the faults are shown and nothing is changed.")),
    ] = False,
) -> None:
    """Read back all exported objects. Write objects that a site altered or lost again, with the same bytes.

    Example:
        rempart ledger repair --yes
    """
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    done = evidence.repair(open_platform(), dry_run=not yes)
    for where, why in () if yes else done.healed.items():
        rendering.tell(f"{where} can be restored: {why}")
    rendering.tell(f"objects read back: {done.read}; {'restored' if yes else 'can be restored'}: {len(done.healed)}")
    if done.healed and not yes:
        rendering.tell("Nothing was changed. Pass --yes to repair the objects.")


@group.command("remove-forged")
def ledger_remove_forged(
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove the records. Without it they are shown and nothing is changed.")
    ] = False,
) -> None:
    """Remove records that were written without the platform: they are ignored, and block new records.

    Example:
        rempart ledger remove-forged
    """
    from rempart.deployment.setup import paths
    from rempart.flows.governance import forged
    from rempart.flows.restore.restore_databases import administrator
    from rempart.flows.shared.platform import open_platform

    stack = paths.current()
    platform = open_platform()
    done = forged.remove_forged(platform.ledger, administrator(stack), stack.var, platform.clock(), dry_run=not yes)
    for entry in reversed(done.entries):
        rendering.tell(f"record {entry.seq}: not signed with the key of the chain; SHA-256 {entry.hash}")
    rendering.tell(
        f"records at the end of the ledger that {'were removed' if yes else 'do not count'}: {len(done.entries)}"
    )
    if done.copy:
        rendering.tell(f"A copy is in {done.copy}. Change the password of the role ledger, and find out who had it.")
    elif done.entries:
        rendering.tell("Nothing was changed. Pass --yes to remove them; a copy is kept.")
