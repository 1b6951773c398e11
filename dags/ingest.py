"""Ingest every waiting delivery of a pipeline and make one snapshot.

**Input**: files under the pipeline's prefix of the landing bucket. For a source of another kind than `files`, task
`extract` writes them first: new rows of a database, for example. A **derived** pipeline takes the rows of its SQL file
over the current snapshots of its inputs, starts when one of them has a new snapshot, and its snapshot becomes exactly
the new result.
**Output**: the raw deliveries, the quarantine, and a new snapshot in the lake bucket, which is also a new version of
the pipeline's Delta table; the asset `snapshot_<pipeline>`.

Each delivery is checksummed and kept as received. Rows that break the schema or an expectation go to quarantine with
their reason and source line. No row is dropped: accepted + repeated + quarantined = delivered.
A delivery that was ingested before changes nothing.

If more rows are refused than `max_quarantined` allows, the deliveries at fault are **held back**: all their rows go to
quarantine, including the good ones, and none of them is published.

`again` takes the SHA-256 of a delivery that was ingested before. The run checks the delivery's rows in quarantine
again with the current pipeline file, and ingests no waiting delivery. Rows that are accepted now leave quarantine for
a new snapshot. If too many rows are still refused, no row is published, unless the run has `accept_quarantined`. The
acceptance is recorded as evidence, with the number of the user. With `again: all` the run judges all stored deliveries
again, as if they arrived for the first time: accepted rows that a changed rule refuses go to quarantine. Look at the
plan first: `rempart pipeline rejudge`.

`accept_loss` takes the id of the snapshot that the ledger names as the newest and the site has lost. The run continues
without its rows and records that as evidence. It is valid for this snapshot alone.

**Run again** at any time: a run without new deliveries or a changed schema changes nothing. The same is true for a run
with `again` whose checks have the same results.

**When it fails**: `extract` names the source that did not answer, or refused. `ingest` names the delivery or site at
fault; nothing was committed or lost. If only `check_quarantine` is red, accepted rows are committed: read its message.
If it names the Delta table, other tools still read an earlier snapshot: follow the message, and run again. Otherwise
more rows were quarantined than `max_quarantined` allows, and the deliveries that it names are held back. Read the
reasons on the cockpit's page of the pipeline. Then choose: have the file corrected and put it into the landing bucket;
or, if a rule was wrong, correct the pipeline file and run again with `again`; or, if the good rows shall count as they
are, accept the delivery on that page or run `rempart quarantine accept`. If the site shows no snapshot, or an earlier
one than the ledger names, follow docs/runbooks/current-snapshot-is-gone.md.
"""

from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from rempart.orchestration import assets, dag_test, pages, runtime
from rempart.orchestration.dags import at, parameter, pipeline_dags, task_defaults, time_limit
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.settings.pipeline import Pipeline
from rempart.settings.sources import DerivedSource, is_extracted
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def starts_on(pipeline: Pipeline) -> Any:
    if pipeline.schedules.ingest:
        return at(pipeline.schedules.ingest)
    return assets.any_snapshot(pipeline.source.inputs) if isinstance(pipeline.source, DerivedSource) else None


def build(dag_id: str, pipeline: Pipeline) -> DAG:
    name, snapshot = pipeline.name, assets.snapshot(pipeline.name)
    prefix = parameter(
        pipeline.source.prefix,
        type="string",
        pattern=rf"^{pipeline.own_prefixes}\Z",
        maxLength=200,
        description="Ingest only the deliveries under this folder: the pipeline's prefix, or a folder below it.",
    )
    again = parameter(
        None,
        type=["null", "string"],
        pattern=r"^([0-9a-f]{64}|all)\Z",
        description=(
            "SHA-256 of a delivery to check again after a fix of the pipeline, or `all`: judge all stored deliveries "
            "again. Empty: ingest the waiting deliveries."
        ),
    )
    accept = parameter(
        False,
        type="boolean",
        description="With `again`: publish the good rows even if more rows are refused than max_quarantined allows.",
    )
    accept_loss = parameter(
        None,
        type=["null", "string"],
        pattern=r"^[0-9a-f]{32}\Z",
        description=(
            "Id of the snapshot that the ledger names as the newest and the site lost. The run continues "
            "without its rows."
        ),
    )
    params = {"prefix": prefix, "again": again, "accept_quarantined": accept, "accept_loss": accept_loss}
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=starts_on(pipeline),
        params=params,
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "ingest", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults,
            owner=pipeline.owner or defaults.owner,
            retries=defaults.retries,
            timeout=time_limit(pipeline, defaults.timeout),
        ),
        auto_register=False,
    ) as dag:

        @task
        def extract(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from rempart.flows.ingestion.extract import extract, nothing

            again = params["again"] or params["accept_loss"]  # such a run is about what was taken before
            with runtime.waits(dag_run):  # the last input starts it again
                result = nothing() if again else extract(runtime.platform(), runtime.pipeline(name))
            return runtime.as_json(runtime.logged(result, lambda told: told.lines()))

        @task
        def ingest(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from rempart.flows.ingestion.reingest import take_in

            spec = runtime.pipeline(name).reading_from(params["prefix"])
            options = {"accept": params["accept_quarantined"], "accept_loss": params["accept_loss"]}
            by = dag_run.triggering_user_name
            return runtime.as_json(take_in(runtime.platform(), spec, params["again"], **options, by=by))

        @task(outlets=[snapshot])
        def publish_snapshot(result: Any, outlet_events: Any = None) -> None:
            if not result["changed"]:
                raise AirflowSkipException(
                    "No new rows: the snapshot is unchanged, and no downstream DAG needs to run."
                )
            outlet_events[snapshot].extra = result

        @task
        def check_quarantine(result: Any) -> None:
            from rempart.flows.ingestion.delta_log import check_table
            from rempart.flows.ingestion.ingest import IngestResult, check_quarantine

            check_quarantine(runtime.pipeline(name), IngestResult(**result))
            check_table(name, result["table_fault"])

        result = linked(ingest(), pages.DATA_REPORT, pages.PLACEMENT)
        if is_extracted(pipeline.source):
            extract() >> result
        publish_snapshot(result)
        check_quarantine(result)
    return dag


globals().update(pipeline_dags("ingest", build))

if __name__ == "__main__":
    dag_test.run(globals())
