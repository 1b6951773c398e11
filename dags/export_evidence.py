"""Export the ledger's new records under lock, and a signed checkpoint to a second operator.

**Input**: the ledger's records since the last export. **Output**: JSON Lines in the bucket `evidence` of
`evidence.site`, a checkpoint in the bucket `checkpoints` of `evidence.checkpoint_site`, both locked for
`evidence.retention`; nothing when there is nothing new.

`window_seconds` tells for how long the oldest of these records could have been rewritten unseen by somebody who holds
the database and the signing key.

The task first probes a site that has no valid record of its capabilities. It refuses a site that lacks a capability
that the export relies on.

**Run again** at will: a run that was cut short is finished by the next. What is written is read back before it counts,
and what earlier runs wrote in turn: a site that altered or lost some of it gets the same bytes again, told in evidence
of kind `repair`.

**When it fails** with `differs from the one in evidence/...`: the database was rewritten, or restored to an earlier
point. Stop, and follow docs/how-to/verify-the-ledger.md. With `No exported object is left`: find out who emptied the
bucket, then run `rempart ledger repair --yes`. With `must not be used for evidence`: docs/runbooks/site.md. Any other
message names the site or database to look at. When only `check_foreign` is red, somebody added objects that are named
like segments: the export is complete, and the site's key must be replaced.
"""

from typing import Any

from airflow.sdk import DAG, DeltaTriggerTimetable, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags

with DAG(
    "export_evidence",
    doc_md=__doc__,
    schedule=DeltaTriggerTimetable(config.load().evidence.every),
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "evidence", tag_of("internal")],
    default_args=task_defaults(owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def export() -> dict[str, Any]:
        from rempart.flows.governance.evidence import export, prove_sites

        platform = runtime.platform()
        prove_sites(platform)
        return runtime.as_json(export(platform))

    @task
    def check_foreign(result: Any) -> None:
        from rempart.flows.governance.evidence import ExportResult, check_foreign

        check_foreign(ExportResult(**result))

    check_foreign(export())

if __name__ == "__main__":
    dag_test.run(globals())
