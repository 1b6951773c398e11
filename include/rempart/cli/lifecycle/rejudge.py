"""The command `rempart pipeline rejudge`: the plan first, and only with `--yes` its execution."""

from __future__ import annotations

from rempart.cli import json_documents, rendering
from rempart.cli.json_documents import AsJson
from rempart.cli.lifecycle.remove import DryRun, Name, Yes, check_one
from rempart.counts import counted


def rejudge(name: Name, dry_run: DryRun = False, yes: Yes = False, as_json: AsJson = False) -> None:
    """Judge all stored deliveries again, by the pipeline file as it is now: after a rule changed.

    The plan counts rows that were accepted and would be refused, and the other way round. Airflow carries it out: the
    DAG ingest_PIPELINE of the running platform, as the user of connection airflow_api.

    Example:
        rempart pipeline rejudge hotel_bookings
        rempart pipeline rejudge hotel_bookings --yes
    """
    from rempart.cli.views import delivery
    from rempart.flows.ingestion import accept_delivery
    from rempart.flows.ingestion import rejudge as flow
    from rempart.flows.shared.platform import open_platform
    from rempart.ingestion import acceptance
    from rempart.settings import pipelines

    check_one(dry_run, yes)
    json_documents.begin(as_json)
    platform = open_platform()
    spec = pipelines.named(name)
    planned = flow.plan(platform, spec)
    if not as_json:
        rendering.show(planned.lines())
    if not yes:
        if as_json:
            json_documents.show(planned)
        else:
            rendering.tell("Nothing was changed. To execute the plan, add --yes.")
        return
    done = accept_delivery.again(platform.connections("airflow_api"), name, flow.ALL)
    if as_json:
        json_documents.show({"plan": planned, "result": done})
    else:
        rendering.tell(
            f"{counted(done['delivered'], 'row')}: {acceptance.good(done['accepted'], done['repeated'])}, "
            f"{done['quarantined']:,} refused in this run; "
            f"snapshot {done['snapshot']}"
        )
        if done["changed"]:
            rendering.show(delivery.after_snapshot(spec))
