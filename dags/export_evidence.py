"""Export the ledger's new records under lock, and a signed checkpoint to a second operator.

**Input**: the ledger's records since the last export. **Output**: JSON Lines in the bucket `evidence` of
`evidence.site`, a checkpoint in the bucket `checkpoints` of `evidence.checkpoint_site`, both locked for
`evidence.retention`. Without new records nothing is written.

`window_seconds` is the time during which the oldest of these records could have been rewritten unnoticed by somebody
who controls the database and the signing key.

If a site has no valid record of its capabilities, the task first probes it. It refuses a site without a capability
that the export needs.

**Run again** at any time: the next run finishes an interrupted one. Each run reads its own objects back before they
count as exported, and then the objects of earlier runs in turn. If a site altered or lost an object, the run writes
the same bytes again and records evidence of kind `repair`.

**When it fails** with `differs from the one in evidence/...`: the database was rewritten, or restored to an earlier
point. Stop, and follow docs/how-to/verify-the-ledger.md. With `No exported object is left`: find out who emptied the
bucket, then run `rempart ledger repair --yes`. With `must not be used for evidence`: see docs/runbooks/site.md. Any
other message names the site or database to check. If only `check_foreign` is red, somebody added objects with the
names of segments: the export is complete, but you must replace the site's key.
"""

from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import Periodic, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags

with DAG(
    "export_evidence",
    doc_md=__doc__,
    schedule=Periodic(config.load().evidence.every),
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "evidence", tag_of("internal")],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
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
