"""Write docs/reference/secrets.md: which process holds which secret, from the table by which the stack is started."""

from __future__ import annotations

from rempart.deployment.setup.process_secrets import HOLDS, IN_PODS, KINDS

PROCESSES = {
    "API server": "airflow-api-server",
    "scheduler": "airflow-scheduler",
    "DAG processor": "airflow-dag-processor",
    "triggerer": "airflow-triggerer",
    "task": "airflow-workload",
    "MLflow": "mlflow",
    "landing watch": "landing-watch",
    "object store": "site",
    "PostgreSQL": "postgresql",
}
_HEAD = """# Which process holds which secret

**For** security reviewers. **Answers** which secret is lost with which process.

Each process gets only the secrets that it needs: as its environment in the embedded stack, as a separate file in
[containers](../how-to/compose.md), as a separate Secret on [Kubernetes](../how-to/kubernetes.md). All three are made
from one table (`include/rempart/deployment/setup/process_secrets.py`), and `tests/faults/test_secrets.py` compares it
with every process of a running stack.
"""
_NOTES = """
- **LocalExecutor** (the embedded stack, and containers without the profile `celery`): the scheduler forks the tasks. It
  holds the secrets of a task, and each task also holds the key for Airflow's tokens. With Celery or on Kubernetes, the
  scheduler holds none of a task's secrets, and a task does not hold that key.
- **A task** holds the whole column, whatever DAG it belongs to. A person who may change a DAG file can read every
  secret of that column, including the signing key and the sites' keys. DAGs are not separated from each other.
- **The embedded stack** runs as one user of the machine and keeps all secrets in `var/secrets.env` (mode 0600). A
  process gets its own secrets only, but every process of that user can read the file. The separation is a boundary
  only in containers and on Kubernetes.
- The preparing job (the container `airflow-init`, the job `rempart-prepare`) and the restore (the container `restore`,
  the job `rempart-restore`) also hold the password of the database's administrator. Both are short jobs.
- The supervisor and the watchdog of the embedded stack hold the connections that you exported, to pass them on.
- With `access: {auth_manager: simple}` the API server also holds the passwords of the admin and the landing watch.
- In containers and on Kubernetes, an API server, DAG processor or triggerer is stopped if it tries to reach a host that
  the policy refuses, and its log says so. The ledger has no record of it, because these processes cannot sign one.
"""


def secrets_page() -> str:
    """Return the table and its notes."""
    lines = [_HEAD, "| secret | opens | " + " | ".join(PROCESSES) + " |", "|---|---|" + "---|" * len(PROCESSES)]
    for kind in KINDS:
        marks = []
        for process in PROCESSES.values():
            in_pods = "on Kubernetes" if kind.name in IN_PODS.get(process, ()) else ""
            marks.append("yes" if kind.name in HOLDS[process] else in_pods)
        lines.append(f"| {kind.name} | {kind.opens} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n" + _NOTES
