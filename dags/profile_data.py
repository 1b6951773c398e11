"""Make the data profile of each new snapshot, and show it to the person who asked.

A profile is one HTML page: rows, empty and distinct values, lengths and distributions by column. It has no key, no
text and no value of a person.

**Input**: a snapshot at the active site. **Output**: `profiles/<pipeline>/<classification>/<snapshot>.html` in the lake
bucket, if it is missing. The classification is the higher of the snapshot's and the pipeline's. With `recipient`, the
page, packed and encrypted with age for the recipient, as the XCom of `profile`.

The asset `snapshot_<pipeline>` starts this DAG. The web server cannot reach a site, so the cockpit's page of the
pipeline starts it, too: it makes a key for one look and keeps it for 30 minutes in the browser that asked. A script
makes its own key (`age-keygen`), triggers the DAG with its recipient, and decrypts `sealed` of the XCom with
`base64 -d | age -d -i KEYFILE | gunzip`.

**Run again** at any time: a profile that exists is not made again. An erasure deletes the profiles of its pipeline; the
next run makes the profile of the snapshot that it is about.

**When it fails**: the message names the site or database that did not answer. The snapshot is committed, and no other
DAG waits for its profile.
"""

from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import assets, dag_test, runtime
from rempart.orchestration.dags import parameter, pipeline_dags, task_defaults
from rempart.settings import config
from rempart.settings.pipeline import Pipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: Pipeline) -> DAG:
    name, asset = pipeline.name, assets.snapshot(pipeline.name)
    snapshot = parameter(
        None,
        type=["null", "string"],
        pattern=r"^[0-9a-f]{32}\Z",
        description="Id of the snapshot to describe; empty for the newest.",
    )
    recipient = parameter(
        None,
        type=["null", "string"],
        pattern=r"^age1[02-9ac-hj-np-z]{58}\Z",
        description="Public half of the age key for which the page is encrypted; empty to return no page.",
    )
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=asset,
        params={"snapshot": snapshot, "recipient": recipient},
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "profile", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def profile(params: Any = None, triggering_asset_events: Any = None) -> dict[str, Any]:
            from rempart.flows.ingestion.profile import make

            events = [event for of_asset in (triggering_asset_events or {}).values() for event in of_asset]
            wanted = [(event.extra or {}).get("snapshot") for event in events] or [params["snapshot"]]
            return runtime.as_json(make(runtime.platform(), runtime.pipeline(name), wanted, params["recipient"]))

        profile()
    return dag


globals().update(pipeline_dags("profile_data", build))

if __name__ == "__main__":
    dag_test.run(globals())
