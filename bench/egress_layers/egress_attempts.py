"""Ways to reach a host from a task: each opens a connection to `host:port` and gives back what came of it.

`bench.prove_egress_layers` lays this file beside its DAGs. A task runs each way in its own process, where the audit
hook is; and once more through this file as a script, which imports nothing of Airflow's, so that there is no hook.
"""

from __future__ import annotations

import ctypes
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

PATIENCE = 3
"""Seconds that an attempt waits for an answer."""


def plain_socket(host: str, port: int) -> None:
    socket.create_connection((host, port), PATIENCE).close()


def datagram(host: str, port: int) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(b"x", (host, port))
        sock.recv(1)  # the next call reports an unreachable port


def with_urllib(host: str, port: int) -> None:
    import urllib.request

    urllib.request.urlopen(f"http://{host}:{port}/", timeout=PATIENCE).close()


def with_requests(host: str, port: int) -> None:
    import requests

    requests.get(f"http://{host}:{port}/", timeout=PATIENCE)


def with_aiohttp(host: str, port: int) -> None:
    import asyncio

    import aiohttp

    async def get() -> None:
        wait = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(timeout=wait) as session, session.get(f"http://{host}:{port}/"):
            pass

    asyncio.run(get())


def with_psycopg(host: str, port: int) -> None:
    import psycopg

    psycopg.connect(f"postgresql://nobody@{host}:{port}/x?connect_timeout={PATIENCE}").close()


def with_pyarrow(host: str, port: int) -> None:
    from pyarrow import fs

    options = {"anonymous": True, "scheme": "http", "connect_timeout": PATIENCE, "request_timeout": PATIENCE}
    site = fs.S3FileSystem(
        endpoint_override=f"{host}:{port}",
        region="local",
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
        **options,
    )
    site.get_file_info("bucket/key")


def with_obstore(host: str, port: int) -> None:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        "bucket",
        endpoint=f"http://{host}:{port}",
        skip_signature=True,
        client_options={"allow_http": True, "timeout": f"{PATIENCE}s"},
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=PATIENCE)},
    )
    obstore.get(store, "key")


def with_ctypes(host: str, port: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    family = ctypes.c_uint16(socket.AF_INET)
    address = bytes(family) + port.to_bytes(2, "big") + socket.inet_aton(host) + bytes(8)
    handle = libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    failed = libc.connect(handle, address, len(address))
    error = ctypes.get_errno()
    libc.close(handle)
    if failed:
        raise OSError(error, f"connect: errno {error}")


def with_curl(host: str, port: int) -> None:
    _child("curl", "--silent", "--show-error", "--max-time", str(PATIENCE), f"http://{host}:{port}/")


def child_python(host: str, port: int) -> None:
    code = f"import urllib.request; urllib.request.urlopen('http://{host}:{port}/', timeout={PATIENCE})"
    _child(sys.executable, "-c", code)


def child_lookup(host: str, port: int) -> None:
    _child("getent", "hosts", host)


def _child(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise OSError(f"exit code {done.returncode}: {last}")


WAYS: dict[str, Callable[[str, int], None]] = {
    function.__name__: function
    for function in (
        *(plain_socket, datagram, with_urllib, with_requests, with_aiohttp, with_psycopg, with_pyarrow),
        *(with_obstore, with_ctypes, with_curl, child_python, child_lookup),
    )
}


def attempt(way: str, host: str, port: int) -> dict[str, str]:
    """Try it: `result` is "refused by the hook", "failed", "connected" or "not installed"."""
    try:
        WAYS[way](host, port)
    except ModuleNotFoundError as missing:
        return {"result": "not installed", "told": str(missing)}
    except Exception as error:
        causes: list[BaseException] = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:
            causes.append(cause)
        denied = [denial for denial in causes if type(denial).__name__ == "EgressDenied"]
        told = f"{type(error).__name__}: {denied[0] if denied else error}"
        return {"result": "refused by the hook" if denied else "failed", "told": told[:400]}
    return {"result": "connected", "told": ""}


if __name__ == "__main__":
    print(json.dumps(attempt(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
