"""A double as a server: `python -m tests.kubernetes_double --kubeconfig FILE --image NAME@sha256:...`.

It runs until SIGTERM or Ctrl-C, and is then used through its API alone.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from .double import KubernetesDouble


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes_double", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="written when the API answers")
    parser.add_argument("--image", required=True, help="an image that nodes can pull")
    parser.add_argument("--bin", type=Path, default=Path(sys.executable).parent, help="folder of the image's python")
    parser.add_argument("--nodes", type=int, default=4)
    given = parser.parse_args(arguments)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    with KubernetesDouble() as double:
        for index in range(given.nodes):
            double.add_node(f"worker-{index + 1}")
        path = os.pathsep.join([str(given.bin.absolute()), "/usr/bin", "/bin"])
        double.add_image(given.image, env={"REMPART_HOME": str(Path.cwd()), "PATH": path})
        part = given.kubeconfig.with_suffix(".part")
        part.write_text(json.dumps(double.kubeconfig()), encoding="utf-8")
        part.rename(given.kubeconfig)
        over.wait()


if __name__ == "__main__":
    main()
