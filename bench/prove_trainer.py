"""Proof: the trainer's image runs a whole job with exactly the spec of a pod. Needs a Docker Engine and the image.

    make images prove-trainer    (REMPART_TAG names another tag than `local`)

PostgreSQL, two sites and MLflow run on this machine. The proof orders a job for the code in the image, and the
platform's own code writes its pod. The image then runs as a kubelet would run it: with the pod's command, variables,
user, limits and read-only root, without a service account token, and with nothing of this machine except its network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.prove_pods import write
from bench.seen import docker
from rempart.deployment.servers import mlflow_server
from rempart.errors import RempartError
from rempart.flows.shared.platform import Platform
from rempart.flows.training import train
from rempart.ledger.memory import MemoryLedger
from rempart.replication.continuity import MemoryContinuity
from rempart.settings.config import connection_text
from rempart.settings.sections import Buckets, Pool
from rempart.sovereignty import pool_pods
from rempart.sovereignty.pods import settle
from rempart.training.backends import stored_result
from rempart.training.job import JobSpec, parse_spec
from rempart.training.kubernetes import pod
from rempart.training.permission import permission_of, permit
from rempart.training.placement import Option
from tests.integration import own_servers as servers
from tests.unit.training import stage

NAME = "trainer"
IMAGE = f"rempart/trainer:{os.environ.get('REMPART_TAG') or 'local'}"
SECONDS = 420
Check = dict[str, Any]


def why_not() -> str:
    """Return why this machine cannot run the proof; empty if it can."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        return "no Docker Engine answers"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode:
        return f"there is no image {IMAGE}: `make images`"
    return ""


def words(spec: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    """Return Docker's options for the one container of a pod's spec. Ends for a spec that is not restricted."""
    security, of_pod = container["securityContext"], spec.get("securityContext") or {}
    limits = container["resources"]["limits"]
    closed = security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    unprivileged = security.get("runAsNonRoot") or of_pod.get("runAsNonRoot")
    if not closed or not unprivileged or spec["automountServiceAccountToken"]:
        raise SystemExit("the pod's spec is not the restricted one")
    return [
        *("run", "--rm", "--pull", "never", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--user", f"{security['runAsUser']}:{security['runAsGroup']}"),
        *("--cpus", str(limits["cpu"]), "--memory", str(limits["memory"]).removesuffix("i")),
        *("--tmpfs", "/tmp:rw,mode=1777,size=2g"),  # noqa: S108 - in the container: the emptyDir
    ]


def ordered(platform: Platform) -> JobSpec:
    """Order a small job for the code in the image."""
    ask = "from rempart.training.trainers import trainers; print(trainers.code_version('gradient_boosting'))"
    code = docker("run", "--rm", "--network", "none", "--entrypoint", "python", IMAGE, "-c", ask).strip()
    spec = train.order(platform, stage.pipeline(), stage.table(), "s1")
    for_image = parse_spec(spec.model_copy(update={"code_version": code, "job_id": ""}).to_json())
    return permit(platform.config, for_image, on=datetime.now(UTC).date())


def made(platform: Platform, spec: JobSpec) -> dict[str, Any]:
    """Return the pod's spec, with the restrictions of its creation."""
    pool = Pool(operator="scaleway", region="fr-par", kubernetes_connection="none", namespace="training")
    settings = platform.config.model_copy(update={"gpu_pools": {"docker": pool}})
    option = Option("docker", "scaleway", "fr-par", "none", "training", IMAGE, 0, None, ())
    found: dict[str, Any] = pod.template(settings, spec, option, 1, seconds=SECONDS)["spec"]
    settle(settings, "docker", found)
    return found


def prove(platform: Platform) -> list[Check]:
    """Run the job and examine its container. Return every check."""
    spec = ordered(platform)
    shaped = made(platform, spec)
    (container,) = shaped["containers"]
    names = {spec.dataset.site.connection, spec.output.site.connection, spec.tracking.connection}
    secrets = {f"AIRFLOW_CONN_{name.upper()}": connection_text(platform.connections(name)) for name in names}
    variables = {variable["name"]: variable["value"] for variable in container["env"]} | secrets
    named = [word for name in variables for word in ("--env", name)]  # the values are in no command line
    program, *arguments = container["command"]
    done = subprocess.run(
        ["docker", *words(shaped, container), *named, "--network", "host", "--entrypoint", program, IMAGE, *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    last = (done.stdout + done.stderr).strip().splitlines()[-1:]
    checks = [_check("the image does a job with the pod's spec", done.returncode == 0, "".join(last)[:300])]
    try:
        result = stored_result(platform.active_site("personal"), spec)
        same = result.decision == permission_of(spec).decision
        checks.append(_check("result.json echoes the digest of the policy's decision", same, result.decision))
    except RempartError as error:
        checks.append(_check("result.json echoes the digest of the policy's decision", False, error.what))
    absent = "/opt/rempart/rempart.yaml /var/run/secrets/kubernetes.io"
    script = f"ls {absent} 2>/dev/null; touch /opt/rempart/x /etc/x 2>&1; id -u"
    closed = ["--network", "none", "--entrypoint", "/bin/sh", IMAGE, "-c", script]
    seen = docker(*words(shaped, container), *closed).split("\n")
    right = len(seen) == 4 and all("Read-only" in line for line in seen[:2]) and seen[2] == str(pool_pods.USER)
    checks.append(
        _check("its container is read-only, not root, without token and rempart.yaml", right, "; ".join(seen))
    )
    return checks


def _check(what: str, ok: bool, detail: str) -> Check:
    print(f"{'ok ' if ok else 'RED'} {what}: {detail}", flush=True)
    return {"what": what, "ok": ok, "detail": detail}


def main() -> int:
    if why := why_not():
        print(f"The proof was NOT RUN: {why}. Nothing is proved.", file=sys.stderr)
        write(NAME, [{"what": "the trainer's image does a job", "ok": None, "detail": f"not run: {why}"}], 0, {})
        return 1
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        servers.own_servers(Path(folder), ("postgresql", "site-primary", "site-haven")) as running,
    ):
        names = Buckets(lake="trainer-lake", artifacts="trainer-artifacts")
        settings = running.stack.config.model_copy(update={"buckets": names})
        platform = Platform(settings, running.connections, ledger_=MemoryLedger(), continuity_=MemoryContinuity())
        for bucket in (names.lake, names.artifacts):
            platform.active_site("personal").ensure_bucket(bucket, versioned=True)
        with servers.service(running, "mlflow", lambda: mlflow_server.check(running.connections("mlflow"))):
            checks = prove(platform)
    return 0 if write(NAME, checks, round(time.monotonic() - began, 1), {}) else 1


if __name__ == "__main__":
    sys.exit(main())
