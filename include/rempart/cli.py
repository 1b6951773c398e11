"""`rempart`: the command line. It works with Airflow down."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rempart.errors import PipelineError, PreflightFailed, RempartError

if TYPE_CHECKING:
    from rempart.flows.fail_over import JourneyResult

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rempart: a sovereign MLOps distribution on Apache Airflow.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at rempart.yaml and the pipeline files.")
app.add_typer(config_app, name="config")
classification_app = typer.Typer(no_args_is_help=True, help="Judge what derived data counts as.")
app.add_typer(classification_app, name="classification")
policy_app = typer.Typer(no_args_is_help=True, help="What may be where, and what may leave this platform.")
app.add_typer(policy_app, name="policy")
ledger_app = typer.Typer(no_args_is_help=True, help="Evidence: look at it, export it, verify it.")
app.add_typer(ledger_app, name="ledger")
keys_app = typer.Typer(no_args_is_help=True, help="Keys of backups: who can open them, and how to destroy one.")
app.add_typer(keys_app, name="keys")
doctor_app = typer.Typer(no_args_is_help=True, help="Look at what jobs and data rely on, and say the remedy.")
app.add_typer(doctor_app, name="doctor")
run_app = typer.Typer(no_args_is_help=True, help="Run a service in the foreground, as a supervisor does.")
app.add_typer(run_app, name="run")
new_app = typer.Typer(no_args_is_help=True, help="Draft new parts of the project.")
app.add_typer(new_app, name="new")
points_app = typer.Typer(no_args_is_help=True, help="Restore points: list them, say why each is kept, hold, prune.")
app.add_typer(points_app, name="points")
watch_app = typer.Typer(invoke_without_command=True)
app.add_typer(watch_app, name="watch")


# --- the embedded stack -----------------------------------------------------------------------------------------------


@app.command()
def up() -> None:
    """Start the embedded stack, or what of it does not run, and prove that each service works."""
    from rempart.stack import layout, lifecycle

    lifecycle.up(layout.current(), typer.echo)


@app.command()
def down() -> None:
    """Stop the embedded stack and prove that no process is left."""
    from rempart.stack import layout, lifecycle

    lifecycle.down(layout.current(), typer.echo)


@app.command()
def status() -> None:
    """Show every service, its process, port and memory. Exit code 1 if one does not run."""
    from rempart.stack import layout, lifecycle

    lines = lifecycle.status(layout.current(), time.time())
    typer.echo(f"{'service':<24}{'state':<14}{'pid':>8}{'up':>9}{'port':>8}{'processes':>11}{'RSS MiB':>9}")
    for line in lines:
        age = f"{int(line.seconds)} s" if line.pid else "-"
        port = line.ports[0] if line.ports else "-"
        typer.echo(
            f"{line.name:<24}{line.state:<14}{line.pid or '-':>8}{age:>9}{port:>8}{line.processes:>11}{line.rss_mib:>9}"
        )
    typer.echo(f"{'together':<63}{sum(x.processes for x in lines):>11}{sum(x.rss_mib for x in lines):>9}")
    if not lifecycle.all_run(lines):
        raise typer.Exit(1)


@app.command()
def logs(
    services: Annotated[
        list[str] | None, typer.Argument(help="Services, as `rempart status` names them; all by default.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Last lines of each log.")] = 20,
) -> None:
    """Show the services' logs."""
    from rempart.stack import layout, lifecycle

    files = lifecycle.logs_of(layout.current(), services or [])
    if not files:
        typer.echo("There are no logs yet: run `rempart up`.")
        return
    options = ["-F"] if follow else []
    raise typer.Exit(subprocess.run(["tail", "-n", str(lines), *options, "--", *files], check=False).returncode)


@app.command("preflight")
def check_machine() -> None:
    """Check that this machine has what the stack needs, and say the remedy for whatever it lacks."""
    from rempart.stack import layout, preflight

    stack = layout.current()
    findings = preflight.inspect(stack.root, stack.var, stack.ports, os.environ)
    for finding in findings:
        typer.echo(finding.line())
    if failed := preflight.failures(findings):
        raise PreflightFailed(
            f"{len(failed)} checks failed: {', '.join(finding.what for finding in failed)}",
            "Follow the arrows above, then run `rempart preflight` again.",
        )


@app.command()
def demo() -> None:
    """Run the whole chain on the sample data through Airflow's REST API, and write var/demo-report.json."""
    from rempart import demo as main_job
    from rempart.stack import layout, lifecycle

    def start_stack() -> None:
        lifecycle.up(layout.current(), typer.echo)
        lifecycle.adopt_environment()

    if not main_job.run(start_stack, typer.echo):
        raise typer.Exit(1)


@app.command()
def password(service: Annotated[str, typer.Argument(help="airflow or mlflow")]) -> None:
    """Print the generated password of the web user, to log in with."""
    from rempart import config
    from rempart.errors import ConfigError

    connections = {"airflow": "airflow_api", "mlflow": "mlflow"}
    if service not in connections:
        raise ConfigError(f"'{service}' has no web user", f"Name one of: {', '.join(connections)}.")
    typer.echo(config.environment_connections(connections[service]).password)


@run_app.command("mlflow")
def run_mlflow(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="By default that of the stack, or of connection mlflow.")] = None,
    allowed_hosts: Annotated[str, typer.Option(help="Other hosts that clients reach it by: host:port,host:port.")] = "",
) -> None:
    """Run the MLflow server at the active site; it stops while that is fenced, and starts anew where it is next."""
    from rempart.stack import follow, layout

    raise typer.Exit(follow.run_mlflow(layout.current(), typer.echo, host=host, port=port, allowed=allowed_hosts))


# --- replicas ---------------------------------------------------------------------------------------------------------


@app.command("replicate")
def replicate_pair(
    source: Annotated[str, typer.Argument(help="The site to copy from, as under replication in rempart.yaml.")],
    target: Annotated[str, typer.Argument(help="The site to copy to.")],
    accept_deletes: Annotated[
        int, typer.Option(min=0, help="Hide so many keys that are gone at the source, after a run asked for it.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Bring one site up to date with another, now. Exit code 1: a key failed, or the lag is above its objective."""
    from rempart.flows import replicate as flow
    from rempart.flows.platform import open_platform

    platform, say = open_platform(), (lambda line: None) if as_json else typer.echo
    result = flow.replicate(platform, source, target, accept_deletes=accept_deletes, say=say)
    typer.echo(flow.as_json(result) if as_json else "\n".join(flow.lines(result)))
    flow.check_objective(platform.config, source, target, result)


@app.command("verify-replica")
def verify_replica(
    source: Annotated[str, typer.Argument(help="The site that was copied from.")],
    target: Annotated[str, typer.Argument(help="The site whose replicas are read back.")],
    whole: Annotated[bool, typer.Option("--all", help="Read all of them, not the part of a day.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Read replicas back and heal what is damaged. Exit code 1: something could not be healed."""
    from rempart.flows import verify_replicas as flow
    from rempart.flows.platform import open_platform
    from rempart.flows.replicate import as_json as to_json

    say = (lambda line: None) if as_json else typer.echo
    result = flow.verify(open_platform(), source, target, whole=whole, say=say)
    typer.echo(to_json(result) if as_json else "\n".join(flow.lines(result)))


# --- where the platform is --------------------------------------------------------------------------------------------


@app.command()
def active() -> None:
    """Tell which site is the active one, how far a switch is, and every generation before."""
    from rempart.flows import mirror
    from rempart.flows.platform import open_platform

    for line in mirror.lines(open_platform()):
        typer.echo(line)


@app.command()
def failover(
    to: Annotated[str | None, typer.Option(help="The site that is to be the active one.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on though the source does not answer; what is lost is listed.")
    ] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Stay where the platform is: lift the fence.")] = False,
) -> None:
    """Move the platform to another site: fence, drain, verify, switch, resume. A run that was cut off is resumed."""
    from rempart.errors import ConfigError
    from rempart.flows import fail_over as flow
    from rempart.flows.platform import open_platform

    if (to is None) == (not abandon):
        raise ConfigError("A failover needs a site", "Say --to SITE, or --abandon.")
    platform = open_platform()
    if to is None:
        result = flow.abandon(platform, dry_run=not yes, say=typer.echo)
    else:
        result = flow.fail_over(platform, to, dry_run=not yes, accept_loss=accept_loss, say=typer.echo)
    _tell_journey(result)


@app.command()
def failback(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Return to the site that rempart.yaml names: bring it up to date while pipelines go on, then as a failover."""
    from rempart.flows import fail_over as flow
    from rempart.flows.platform import open_platform

    _tell_journey(flow.fail_back(open_platform(), dry_run=not yes, say=typer.echo))


def _tell_journey(result: JourneyResult) -> None:
    from rempart.flows import fail_over as flow

    for line in flow.lines(result):
        typer.echo(line)
    if result.dry_run and not result.done:
        typer.echo("Nothing was changed. Say --yes to do it.")


# --- restore points ---------------------------------------------------------------------------------------------------

PointSite = Annotated[str | None, typer.Option("--site", help="Another site than the one where backups go now.")]
Role = Annotated[str, typer.Option(help="Who decided so, as a role: data-protection-officer.")]
Point = Annotated[str, typer.Argument(help="Its id, as `rempart points list` shows it.")]


@points_app.command("list")
def points_list(site: PointSite = None) -> None:
    """Show every restore point: its age and size, the last drill of it, and why it is kept."""
    from rempart.flows import point_report, restore_points
    from rempart.flows.platform import open_platform

    for line in point_report.list_lines(restore_points.survey(open_platform(), site)):
        typer.echo(line)


@points_app.command("explain")
def points_explain(point: Point, site: PointSite = None) -> None:
    """Tell all that is known of one restore point, and what every reason to keep it means."""
    from rempart.flows import point_report, restore_points
    from rempart.flows.platform import open_platform

    for line in point_report.explain_lines(restore_points.survey(open_platform(), site), point):
        typer.echo(line)


@points_app.command("hold")
def points_hold(
    point: Point,
    why: Annotated[str, typer.Option(help="Why it must be kept; no personal data here.")],
    role: Role,
    site: PointSite = None,
) -> None:
    """Put a restore point under legal hold: it is not pruned until it is released. Recorded as evidence."""
    from rempart.flows import point_report, restore_points
    from rempart.flows.platform import open_platform

    standing = restore_points.hold(open_platform(), point, role=role, why=why, where=site)
    typer.echo(f"{point} is held {point_report.hold_line(standing)}")


@points_app.command("release")
def points_release(
    point: Point,
    why: Annotated[str, typer.Option(help="Why it need not be kept any more; no personal data here.")],
    role: Role,
    site: PointSite = None,
) -> None:
    """End the legal hold of a restore point: the next prune may delete it. Recorded as evidence."""
    from rempart.flows import restore_points
    from rempart.flows.platform import open_platform

    released = restore_points.release(open_platform(), point, role=role, why=why, where=site)
    typer.echo(f"{point} is released" if released else f"{point} was not held: nothing was changed")


@points_app.command("prune")
def points_prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is deleted.")
    ] = False,
    site: PointSite = None,
) -> None:
    """Delete the restore points that no rule keeps, for ever. The DAG backup_platform does so after each backup."""
    from rempart.flows import point_report, prune
    from rempart.flows.platform import open_platform

    done = prune.prune(open_platform(), dry_run=not yes, where=site, say=typer.echo)
    for line in point_report.prune_lines(done):
        typer.echo(line)
    if done.dry_run:
        typer.echo("Nothing was deleted. Say --yes to do it.")


@app.command("restore")
def restore_cli(
    site: Annotated[str, typer.Option(help="The site to restore from; by default backup.site.")] = "",
    point: Annotated[str | None, typer.Option(help="Its id; by default the newest that lacks nothing.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="database:NAME, bucket:lake, bucket:artifacts, model:NAME, dataset:NAME; may be repeated."),
    ] = None,
    aside: Annotated[str | None, typer.Option(help="Beside the platform's own, under names that end in this.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Escrow identity; by default the platform's own.")] = None,
    trust: Annotated[list[Path] | None, typer.Option(help="The ledger's public key, PEM; may be repeated.")] = None,
    listed: Annotated[bool, typer.Option("--list", help="Show the points that can be restored.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what the point holds, part by part.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
    i_know: Annotated[
        bool, typer.Option("--i-know", help="Also an older point, over other secrets, into databases that hold rows.")
    ] = False,
) -> None:
    """Restore the platform, or a part of it, from a site and the escrowed keys alone; needs no Airflow.

    A run that was cut off goes on where it was when it is started again.
    """
    from rempart.backup.restoring import check_suffix, parse_part
    from rempart.flows import restore_command as flow
    from rempart.flows.restore_source import Wish
    from rempart.stack import layout

    parts = tuple(parse_part(one) for one in only or ())
    wish = Wish(site, point, parts, check_suffix(aside) if aside else None, i_know)
    flow.command(
        layout.current(),
        wish,
        identity=identity,
        trust=trust or (),
        listed=listed,
        explained=explain,
        yes=yes,
        say=typer.echo,
    )


# --- configuration ----------------------------------------------------------------------------------------------------


@config_app.command("check")
def config_check(
    pipeline: Annotated[str | None, typer.Argument(help="Pipeline name; all of them by default.")] = None,
) -> None:
    """Validate rempart.yaml and the pipeline files; every fault names file, path and remedy."""
    from rempart import config
    from rempart import pipeline as pipelines
    from rempart.sovereignty import facts
    from rempart.stack import layout

    loaded = config.load()
    layout.ports_of(loaded, 0)  # ports may collide
    typer.echo(f"{config.project_root() / 'rempart.yaml'}: valid ({len(loaded.sites)} sites)")
    old = facts.stale(facts.in_use(loaded), datetime.now(UTC).date(), loaded.audit.facts_max_age)
    for line in facts.summaries(old, loaded.audit.facts_max_age):
        typer.echo(f"warning: {line}", err=True)
    if pipeline:
        from rempart.quality.expectations import build

        build(pipelines.named(pipeline).expectations)
        typer.echo(f"pipeline {pipeline}: valid")
        return
    faults = []
    for name, found in pipelines.load_all().items():
        if isinstance(found, PipelineError):
            faults.append(found.what)
        else:
            typer.echo(f"pipeline {name}: valid")
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
    from rempart import pipeline as pipelines
    from rempart.flows.platform import open_platform
    from rempart.sovereignty.classification import named

    record = open_platform().lower(pipelines.named(pipeline), "model", named(to), because, role)
    typer.echo(f"recorded as number {record.seq}. In include/pipelines/{pipeline}.yaml:")
    typer.echo(f"lowered: {{model: {{to: {to}, evidence: {record.seq}}}}}")


# --- the policy -------------------------------------------------------------------------------------------------------


@policy_app.command("show")
def policy_show(
    reasons: Annotated[bool, typer.Option(help="Tell every reason, also of what is allowed.")] = False,
) -> None:
    """What may be where: each place of rempart.yaml with each classification, and why not."""
    from rempart import config
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
    api_server: Annotated[str | None, typer.Option(help="Kubernetes API server, as ADDRESS:PORT.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="nftables: hold this user alone; may be repeated.")] = None,
    resolver: Annotated[list[str] | None, typer.Option(help="nftables: DNS server; by default this machine's.")] = None,
) -> None:
    """Write the allow-list of rempart.yaml as rules for the network. Exit code 1 if a name did not resolve."""
    from rempart.flows import egress_policy

    files, missing = egress_policy.from_configuration(
        form,
        datetime.now(UTC).date(),
        namespace=namespace,
        api_server=api_server,
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
    from rempart import config
    from rempart.flows import egress_policy

    loaded, on = config.load(), datetime.now(UTC).date()
    found = egress_policy.rules(loaded, config.environment_connections, on=on)
    allowed, text = egress_policy.explain(loaded, found, host, on=on)
    typer.echo(text)
    if not allowed:
        raise typer.Exit(1)


@new_app.command("pipeline")
def new_pipeline(
    csv: Annotated[Path, typer.Argument(help="A delivery, as .csv or .csv.gz.")],
    name: Annotated[str | None, typer.Option(help="The pipeline's name; by default the file's.")] = None,
) -> None:
    """Draft a pipeline file from one delivery: types, key, time, target and ranges, for you to correct."""
    from rempart.ingestion.draft import save_draft

    file = save_draft(csv, name)
    typer.echo(f"{file}: drafted. Decide every line marked CHECK, then run `rempart config check {file.stem}`.")


# --- doctors ----------------------------------------------------------------------------------------------------------


@doctor_app.command("pool")
def doctor_pool(
    name: Annotated[str | None, typer.Argument(help="As under pools in rempart.yaml; all of them by default.")] = None,
    probe: Annotated[bool, typer.Option(help="Also run a short pod there: image, site and tracking server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
    wait: Annotated[int, typer.Option(min=1, help="Seconds that the pod may take, its image's pull included.")] = 180,
) -> None:
    """Check a pool's live cluster. Exit code 0: nothing failed; 1: something did; 2: a cluster did not answer."""
    from rempart.flows import doctor_pool as flow

    found = flow.diagnose([name] if name else [], probe=probe, seconds=wait)
    flow.deliver(found, as_json=as_json, say=typer.echo)
    raise typer.Exit(flow.exit_code(found))


@doctor_app.command("site")
def doctor_site(
    name: Annotated[str | None, typer.Argument(help="As under sites in rempart.yaml; all of them by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Try what a site can do, on the site itself, and keep the outcome as evidence. Its own bucket alone is touched.

    Exit code 0: every purpose may rely on it; 1: one may not; 2: a site did not answer.
    """
    from rempart.flows import doctor_site as flow
    from rempart.flows.platform import open_platform

    quiet = (lambda line: None) if as_json else typer.echo
    found = flow.probe_sites(open_platform(), [name] if name else [], quiet)
    typer.echo(flow.as_json(found) if as_json else "\n".join(flow.summary(found)))
    raise typer.Exit(flow.exit_code(found))


# --- the ledger -------------------------------------------------------------------------------------------------------


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
    from rempart.flows import evidence
    from rempart.flows.platform import open_platform

    written = evidence.export_to(open_platform(), folder)
    typer.echo(f"{written.folder}: {written.records} records, {written.checkpoints} checkpoints, public.pem")


@ledger_app.command("show")
def ledger_show(
    after: Annotated[int | None, typer.Option(help="From the record after this number on; else the newest.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many records.")] = 20,
) -> None:
    """Show records as they are stored, one JSON text a line."""
    from rempart.flows import evidence
    from rempart.flows.platform import open_platform

    for text in evidence.show(open_platform(), after, limit):
        typer.echo(text)


@ledger_app.command("rotate-key")
def ledger_rotate_key() -> None:
    """Replace the signing key: the old one signs for the new one, and is gone."""
    from rempart.flows import evidence
    from rempart.flows.platform import open_platform
    from rempart.stack import credentials, layout

    credentials.prepare_ledger_key(layout.current())
    record = evidence.rotate_key(open_platform())
    typer.echo(f"record {record.seq}: key {record.subject} signs from now on, in place of {record.body['replaces']}")
    typer.echo(credentials.after_rotation(adopted=credentials.adopt_ledger_key(layout.current())))


# --- the watch --------------------------------------------------------------------------------------------------------


@watch_app.callback()
def watch(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Look once, as a timer does.")] = False,
    every: Annotated[str, typer.Option(help="Between two looks: 30s, 5m.")] = "5m",
    file: Annotated[Path, typer.Option(help="As `rempart watch init` writes it.")] = Path("watch.yaml"),
    state: Annotated[Path | None, typer.Option(help="Who was told what, instead of `state` in the file.")] = None,
) -> None:
    """Tell somebody when backup, replication or drill fall silent; runs outside Airflow, best at another operator.

    Exit code of --once: 0: all is green; 1: something is red; 2: it could not be judged, or somebody not be told.
    """
    if context.invoked_subcommand:
        return
    from rempart.flows import watch as flow
    from rempart.schema import parse_duration

    try:
        seconds = max(parse_duration(every).total_seconds(), 1.0)
    except ValueError as fault:
        raise typer.BadParameter(str(fault), param_hint="--every") from fault
    pause = None if once else lambda: time.sleep(seconds)
    raise typer.Exit(flow.watch(file, state, os.environ, lambda: datetime.now(UTC), pause, typer.echo))


@watch_app.command("init")
def watch_init(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("watch.yaml"),
) -> None:
    """Write the watch's file from this platform's configuration: site, public key, and how long each may be silent."""
    from rempart.flows import watch_init as flow
    from rempart.flows.platform import open_platform

    typer.echo(f"{flow.write(open_platform(), out)}: written. Name whom to tell under `alerts`; docs/how-to/watch.md")


# --- keys of backups --------------------------------------------------------------------------------------------------


@keys_app.command("list")
def keys_list() -> None:
    """Show every erasure domain's keys: who can open each, where a copy is missing, which were destroyed."""
    from rempart.flows import keys as flow
    from rempart.flows.platform import open_platform

    for line in flow.listing(flow.open_keyring(open_platform(), _warn)):
        typer.echo(line)


@keys_app.command("new-recipient")
def keys_new_recipient(file: Annotated[Path, typer.Argument(help="A new file; keep it apart from here.")]) -> None:
    """Make an escrow identity in a file that only you can read, and print what goes into rempart.yaml."""
    from rempart.flows import keys as flow

    recipient = flow.new_recipient(file, datetime.now(UTC))
    typer.echo(f"{file} opens every backup: take it off this machine. In rempart.yaml, under backup.recipients:")
    typer.echo(recipient)


@keys_app.command("destroy")
def keys_destroy(
    domain: Annotated[str, typer.Argument(help="As `rempart keys list` names it.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Destroy a domain's keys: what they sealed is unreadable from then on, in every copy, and nothing else is."""
    from rempart.flows import keys as flow
    from rempart.flows.platform import open_platform

    platform = open_platform()
    flow.destroy(platform, flow.open_keyring(platform, _warn), domain, dry_run=not yes, say=typer.echo)


@keys_app.command("rewrap")
def keys_rewrap(
    opened_with: Annotated[
        Path | None, typer.Option("--with", help="An identity that opens the keys, if the platform's own is new.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it the plan is shown and nothing is changed.")
    ] = False,
) -> None:
    """Wrap every key for the recipients of rempart.yaml and the platform's own key, and for nobody else."""
    from rempart.backup.age import read_identity_file
    from rempart.flows import keys as flow
    from rempart.flows.platform import open_platform

    platform, opener = open_platform(), read_identity_file(opened_with) if opened_with else None
    flow.rewrap(platform, flow.open_keyring(platform, _warn), opener, dry_run=not yes, say=typer.echo)


def _warn(line: str) -> None:
    typer.echo(line, err=True)


# --- transparency -----------------------------------------------------------------------------------------------------


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
    """Look for what is open, unknown, vulnerable. Exit code 0: nothing above low; 1: medium; 2: worse; 3: not made."""
    from rempart.flows import audit as flow
    from rempart.stack import layout

    try:
        found = flow.Audit(layout.current(), datetime.now(UTC), debian or (), advisories, only or ()).run()
        flow.deliver(found, as_json=as_json, out=out, say=typer.echo)
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
    release: Annotated[str, typer.Option(help="The Debian release, such as 13, if its os-release is not there.")] = "",
    timestamp: Annotated[datetime | None, typer.Option(help="A time to state; else the file has none.")] = None,
) -> None:
    """Write a bill of materials (CycloneDX 1.6 JSON) of the lock, or of a Debian system."""
    from rempart import config
    from rempart.flows import audit as flow

    at = timestamp.replace(tzinfo=UTC) if timestamp and not timestamp.tzinfo else timestamp
    flow.deliver_text(
        flow.bill_of_debian(debian, release, at) if debian else flow.bill_of_lock(config.project_root(), at),
        out,
        typer.echo,
    )


def main() -> None:
    """Run the command line; an error of ours is told in two lines, without a traceback."""
    from rempart.stack import lifecycle

    lifecycle.adopt_environment()
    try:
        app()
    except RempartError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
