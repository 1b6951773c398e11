"""Show and explain the policy, and render egress rules."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from rempart.cli import json_documents, panels, rendering
from rempart.cli.json_documents import AsJson

group = typer.Typer(
    no_args_is_help=True,
    rich_help_panel=panels.GOVERN,
    help="Where data may be stored, and which hosts the platform may reach.",
)


@group.command("show")
def policy_show(
    reasons: Annotated[bool, typer.Option(help="Show every reason, including those of allowed placements.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which classifications each place of rempart.yaml may hold, with the reasons against the others.

    Example:
        rempart policy show --reasons
    """
    from rempart.settings import config
    from rempart.sovereignty.places import overview

    decisions = overview(config.load(), on=datetime.now(UTC).date())
    if as_json:
        json_documents.show([decision.as_json() for decision in decisions])
        return
    for decision in decisions:
        verdict = "allowed" if decision.allowed else "denied"
        line = f"{verdict:<8} {decision.classification:<10} {decision.what:<14} {decision.place}"
        rendering.show(decision.explain().split("\n") if reasons else [line])
        for reason in () if reasons else decision.against:
            rendering.tell(f"         {reason.rule}: {reason.fact}")


@group.command("render")
def policy_render(
    form: Annotated[str, typer.Argument(help="kubernetes, cilium or nftables.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the files; without it they are printed.")] = None,
    namespace: Annotated[str, typer.Option(help="Namespace in which Airflow runs.")] = "airflow",
    api_server: Annotated[
        list[str] | None, typer.Option(help="Kubernetes API server, as ADDRESS:PORT; may be repeated.")
    ] = None,
    user: Annotated[
        list[str] | None, typer.Option(help=("nftables: apply the rules to this user only; may be repeated."))
    ] = None,
    resolver: Annotated[list[str] | None, typer.Option(help="nftables: DNS server; default: this machine's.")] = None,
) -> None:
    """Write the allow-list of rempart.yaml as rules for the network. Exit code 1 if a name did not resolve.

    Example:
        rempart policy render kubernetes --out rules
    """
    from rempart.flows.governance import egress_policy

    files, missing = egress_policy.from_configuration(
        form,
        datetime.now(UTC).date(),
        namespace=namespace,
        api_servers=api_server or (),
        users=user or (),
        resolvers=resolver or egress_policy.resolvers(),
    )
    for written in [str(file) for file in egress_policy.save(files, out)] if out else files.values():
        rendering.show(written.split("\n"))
    for name in missing:
        rendering.tell(f"warning: {name} did not resolve here: the rules do not allow it", err=True)
    if missing:
        raise typer.Exit(1)


@group.command("explain")
def policy_explain(host: Annotated[str, typer.Argument(help="HOST or HOST:PORT.")], as_json: AsJson = False) -> None:
    """Show whether a task may connect to a host, with every reason. Exit code 1 if not.

    Example:
        rempart policy explain s3.fr-par.scw.cloud:443
    """
    from rempart.flows.governance import egress_policy
    from rempart.settings import config

    loaded, on = config.load(), datetime.now(UTC).date()
    rules = egress_policy.rules(loaded, config.environment_connections, on=on)
    allowed, text = egress_policy.explain(loaded, rules, host, on=on)
    if as_json:
        json_documents.show({"host": host, "allowed": allowed, "reasons": text.splitlines()[1:]})
    else:
        rendering.show(text.split("\n"))
    if not allowed:
        raise typer.Exit(1)


@group.command("lower-classification")
def policy_lower_classification(
    pipeline: str,
    to: Annotated[str, typer.Option(help="New classification: public, internal or personal.")],
    because: Annotated[
        str, typer.Option(help=("Reason why it needs less protection than its data; no personal data here."))
    ],
    role: Annotated[str, typer.Option(help="Role of the person who decided: data-protection-officer.")],
    part: Annotated[
        str, typer.Option(help="What counts as less: `model`, or `data` (the rows of a derived pipeline).")
    ] = "model",
) -> None:
    """Record that a pipeline's model counts as less protected than its data, and print the lines for its file.

    With `--part data`: that derived rows count as less protected than their inputs.

    Example:
        rempart policy lower-classification sales --to internal --because "names nobody" --role data-protection-officer
    """
    from typing import get_args

    from rempart.flows.shared.platform import open_platform
    from rempart.ingestion.derived import inputs
    from rempart.settings import pipelines
    from rempart.settings.pipeline_sections import Part
    from rempart.sovereignty.classification import named

    spec = pipelines.named(pipeline)
    if part not in get_args(Part) or (part == "data" and spec.source.kind != "derived"):
        raise typer.BadParameter("pass --part model; or --part data for a derived pipeline", param_hint="--part")
    source = inputs.needed_classification(inputs.declared_inputs(spec, checked=False)) if part == "data" else None
    record = open_platform().lower(spec, "data" if part == "data" else "model", named(to), because, role, source)
    rendering.tell(f"recorded as number {record.seq}. In include/pipelines/{pipeline}.yaml:")
    rendering.tell(f"lowered: {{{part}: {{to: {to}, evidence: {record.seq}}}}}")
