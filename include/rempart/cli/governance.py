"""Commands of the configuration, the policy, the ledger, and of what an auditor asks."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.cli.root import app, classification_app, config_app, ledger_app, new_app, policy_app
from rempart.errors import PipelineError, RempartError

if TYPE_CHECKING:
    pass


@config_app.command("check")
def config_check(
    pipeline: Annotated[str | None, typer.Argument(help="Pipeline name; all of them by default.")] = None,
) -> None:
    """Validate rempart.yaml and the pipeline files, and ask the policy about each place that they use.

    Every fault names file, path and remedy.
    """
    from rempart.deployment.setup import paths
    from rempart.flows.training import check_pipeline
    from rempart.settings import config, pipelines
    from rempart.sovereignty import facts
    from rempart.sovereignty.places import in_use

    loaded = config.load()
    paths.ports_of(loaded, 0)  # ports may collide
    typer.echo(f"{config.project_root() / 'rempart.yaml'}: valid ({len(loaded.sites)} sites)")
    old = facts.stale(facts.in_use(loaded), datetime.now(UTC).date(), loaded.audit.facts_max_age)
    for line in facts.summaries(old, loaded.audit.facts_max_age):
        typer.echo(f"warning: {line}", err=True)
    if pipeline:
        check_pipeline.check(pipelines.named(pipeline))
        typer.echo(f"pipeline {pipeline}: valid")
        return
    faults, classifications = [], set()
    for name, found in pipelines.load_all().items():
        try:
            if isinstance(found, PipelineError):
                raise found
            classifications.add(found.classification)
            check_pipeline.check(found)
            typer.echo(f"pipeline {name}: valid")
        except PipelineError as fault:
            faults.append(fault.what)
    for decision in in_use(loaded, sorted(classifications), on=datetime.now(UTC).date()):
        if not decision.allowed:
            faults.append(decision.explain())
    if faults:
        raise PipelineError("\n".join(faults), "Correct each line above, then run `rempart config check` again.")


@classification_app.command("lower")
def classification_lower(
    pipeline: str,
    to: Annotated[str, typer.Option(help="public, internal or personal.")],
    because: Annotated[str, typer.Option(help="Why it is no longer as protected as its data; no personal data here.")],
    role: Annotated[str, typer.Option(help="Who judged so, as a role: data-protection-officer.")],
) -> None:
    """Record that a pipeline's model counts as less protected than its data, and say what to write in its file."""
    from rempart.flows.shared.platform import open_platform
    from rempart.settings import pipelines
    from rempart.sovereignty.classification import named

    record = open_platform().lower(pipelines.named(pipeline), "model", named(to), because, role)
    typer.echo(f"recorded as number {record.seq}. In include/pipelines/{pipeline}.yaml:")
    typer.echo(f"lowered: {{model: {{to: {to}, evidence: {record.seq}}}}}")


@policy_app.command("show")
def policy_show(
    reasons: Annotated[bool, typer.Option(help="Tell every reason, also of what is allowed.")] = False,
) -> None:
    """Show for each place of rempart.yaml which classifications it may hold, and why not."""
    from rempart.settings import config
    from rempart.sovereignty.places import overview

    for decision in overview(config.load(), on=datetime.now(UTC).date()):
        verdict = "allowed" if decision.allowed else "denied"
        line = f"{verdict:<8} {decision.classification:<10} {decision.what:<14} {decision.place}"
        typer.echo(decision.explain() if reasons else line)
        for reason in () if reasons else decision.against:
            typer.echo(f"         {reason.rule}: {reason.fact}")


@policy_app.command("render")
def policy_render(
    form: Annotated[str, typer.Argument(help="kubernetes, cilium or nftables.")],
    out: Annotated[Path | None, typer.Option(help="Write the files into this folder, instead of showing them.")] = None,
    namespace: Annotated[str, typer.Option(help="The namespace in which Airflow runs.")] = "airflow",
    api_server: Annotated[
        list[str] | None, typer.Option(help="Kubernetes API server, as ADDRESS:PORT; may be repeated.")
    ] = None,
    user: Annotated[list[str] | None, typer.Option(help="nftables: hold this user alone; may be repeated.")] = None,
    resolver: Annotated[list[str] | None, typer.Option(help="nftables: DNS server; by default this machine's.")] = None,
) -> None:
    """Write the allow-list of rempart.yaml as rules for the network. Exit code 1 if a name did not resolve."""
    from rempart.flows.governance import egress_policy

    files, missing = egress_policy.from_configuration(
        form,
        datetime.now(UTC).date(),
        namespace=namespace,
        api_servers=api_server or (),
        users=user or (),
        resolvers=resolver or egress_policy.resolvers(),
    )
    for line in [str(file) for file in egress_policy.save(files, out)] if out else files.values():
        typer.echo(line)
    for name in missing:
        typer.echo(f"warning: {name} did not resolve here: the rules do not allow it", err=True)
    if missing:
        raise typer.Exit(1)


@policy_app.command("explain")
def policy_explain(host: Annotated[str, typer.Argument(help="HOST or HOST:PORT.")]) -> None:
    """Tell whether a task may connect to a host, and every reason. Exit code 1 if not."""
    from rempart.flows.governance import egress_policy
    from rempart.settings import config

    loaded, on = config.load(), datetime.now(UTC).date()
    rules = egress_policy.rules(loaded, config.environment_connections, on=on)
    allowed, text = egress_policy.explain(loaded, rules, host, on=on)
    typer.echo(text)
    if not allowed:
        raise typer.Exit(1)


@new_app.command("pipeline")
def new_pipeline(
    csv: Annotated[Path, typer.Argument(help="A delivery, as .csv or .csv.gz.")],
    name: Annotated[str | None, typer.Option(help="The pipeline's name; by default the file's.")] = None,
) -> None:
    """Draft a pipeline file from one delivery (types, key, time, target, ranges) for you to correct."""
    from rempart.ingestion.draft import save_draft

    file = save_draft(csv, name)
    typer.echo(f"{file}: drafted. Decide every line marked CHECK, then run `rempart config check {file.stem}`.")


@ledger_app.command("verify")
def ledger_verify(
    place: Annotated[Path, typer.Argument(help="The folder of an export, or one .jsonl file.")],
    key: Annotated[list[str], typer.Option(help="Public key that began the ledger: a .pem file, or hex.")],
    checkpoints: Annotated[Path | None, typer.Option(help="Folder of the second operator's checkpoints.")] = None,
) -> None:
    """Verify an export offline. Exit code 1 names the first broken record. Needs no platform and no network."""
    from rempart.ledger import files

    verdict = files.verify_files(place, key, checkpoints)
    for line in files.report(verdict):
        typer.echo(line)
    if not verdict.ok:
        raise typer.Exit(1)


@ledger_app.command("export")
def ledger_export(folder: Annotated[Path, typer.Argument(help="Created if missing.")]) -> None:
    """Write every record, every checkpoint and the first public key into a folder, for an auditor."""
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    written = evidence.export_to(open_platform(), folder)
    typer.echo(f"{written.folder}: {written.records} records, {written.checkpoints} checkpoints, public.pem")


@ledger_app.command("show")
def ledger_show(
    after: Annotated[int | None, typer.Option(help="From the record after this number on; else the newest.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many records.")] = 20,
) -> None:
    """Show stored records, one JSON text a line."""
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    for text in evidence.show(open_platform().ledger, after, limit):
        typer.echo(text)


@ledger_app.command("rotate-key")
def ledger_rotate_key() -> None:
    """Replace the signing key: the old key signs the new one, and is deleted."""
    from rempart.deployment.setup import credentials, paths
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    credentials.prepare_ledger_key(paths.current())
    record = evidence.rotate_key(open_platform())
    typer.echo(f"record {record.seq}: key {record.subject} signs from now on, in place of {record.body['replaces']}")
    typer.echo(credentials.after_rotation(adopted=credentials.adopt_ledger_key(paths.current())))


@ledger_app.command("repair")
def ledger_repair(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it what is wrong is shown and nothing is changed.")
    ] = False,
) -> None:
    """Read back everything that was exported, and put again what a site altered or lost, with the same bytes."""
    from rempart.flows.governance import evidence
    from rempart.flows.shared.platform import open_platform

    done = evidence.repair(open_platform(), dry_run=not yes)
    for where, why in () if yes else done.healed.items():
        typer.echo(f"{where} can be put again: {why}")
    typer.echo(f"{done.read} objects were read back; {len(done.healed)} {'were' if yes else 'can be'} put again")
    if done.healed and not yes:
        typer.echo("Nothing was changed. Pass --yes to do it.")


@ledger_app.command("remove-forged")
def ledger_remove_forged(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the records are shown and nothing is changed.")
    ] = False,
) -> None:
    """Remove records written without the platform: they are ignored, and block new ones."""
    from rempart.deployment.setup import paths
    from rempart.flows.governance import forged
    from rempart.flows.restore.restore_databases import administrator
    from rempart.flows.shared.platform import open_platform

    stack = paths.current()
    platform = open_platform()
    done = forged.remove_forged(platform.ledger, administrator(stack), stack.var, platform.clock(), dry_run=not yes)
    for entry in reversed(done.entries):
        typer.echo(f"record {entry.seq}: not signed with the key of the chain; SHA-256 {entry.hash}")
    typer.echo(f"{len(done.entries)} records at the end of the ledger {'were removed' if yes else 'do not count'}")
    if done.copy:
        typer.echo(f"A copy is in {done.copy}. Change the password of the role ledger, and find out who had it.")
    elif done.entries:
        typer.echo("Nothing was changed. Pass --yes to remove them; a copy is kept.")


@app.command()
def audit(
    as_json: Annotated[bool, typer.Option("--json", help="As docs/reference/audit.schema.json describes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the report to this file instead of printing it.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Make this check alone; may be repeated.")] = None,
    debian: Annotated[
        list[Path] | None, typer.Option(help="An image's root, dpkg status file or bill of materials; may be repeated.")
    ] = None,
    advisories: Annotated[Path | None, typer.Option(help="Advisory database, instead of audit.advisories.")] = None,
) -> None:
    """Find open, unknown and vulnerable parts. Exit code 0: nothing above low; 1: medium; 2: worse; 3: not run."""
    from rempart.audit import findings
    from rempart.deployment.setup import paths
    from rempart.flows.governance import audit as flow

    try:
        found = flow.Audit(paths.current(), datetime.now(UTC), debian or (), advisories, only or ()).run()
        readable = findings.readable(found)
        text = flow.report_json(found) if as_json else readable
        if out:
            flow.write_text(text, out)
            text = f"{out}: {readable.rstrip().splitlines()[-1]}"
        typer.echo(text.rstrip("\n"))
    except RempartError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(3) from error
    raise typer.Exit(found.exit_code)


@app.command()
def sbom(
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None,
    debian: Annotated[
        Path | None, typer.Option(help="A dpkg status file or an image's root, instead of the lock.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(help="An image's root: its Python distributions and programs too.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the image is called.")] = "image",
    release: Annotated[str, typer.Option(help="The Debian release, such as 13, if its os-release is not there.")] = "",
    timestamp: Annotated[datetime | None, typer.Option(help="A time to state; else the file has none.")] = None,
) -> None:
    """Write a bill of materials (CycloneDX 1.6 JSON) of the lock, of a Debian system, or of an image."""
    from rempart.flows.governance import audit as flow
    from rempart.settings import config

    at = timestamp.replace(tzinfo=UTC) if timestamp and not timestamp.tzinfo else timestamp
    if image:
        text = flow.bill_of_image(image, name, at)
    else:
        text = flow.bill_of_debian(debian, release, at) if debian else flow.bill_of_lock(config.project_root(), at)
    if out:
        flow.write_text(text, out)
    else:
        typer.echo(text.rstrip("\n"))
