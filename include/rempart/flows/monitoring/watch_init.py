"""Write watch.yaml from the configuration of a running platform."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from rempart.backup.watch.heartbeat import WAL, replication
from rempart.errors import ConfigError
from rempart.flows.monitoring.watch_file import ACCESS_KEY, SECRET_KEY, load, text_of
from rempart.flows.shared.platform import Platform
from rempart.ledger.keys import to_base64
from rempart.settings.config import Config, watcher

WEEKLY = timedelta(days=8)
"""The drill's DAG starts once a week; a day for it to end, or to be run again."""
ARCHIVE_MAX_INTERVAL = timedelta(minutes=15)
"""The archiver reports every five minutes."""
_HEAD = """\
# What `rempart watch` checks and whom it notifies; docs/how-to/watch.md. No password stands here: {access} and
# {secret} hold a key that may read heartbeats and nothing else ({connection} in the embedded stack).
"""
_ALERTS = """\
# Recipients. Without any, only the exit code reports.
alerts: {}
#  on-call: {by: webhook, url: "https://alerts.example.eu/rempart", token_env: REMPART_WATCH_TOKEN}
#  team: {by: mail, host: smtp.example.eu, sender: watch@example.eu, to: mlops@example.eu,
#    user: watch, password_env: REMPART_WATCH_SMTP_PASSWORD}
"""


def limits(config: Config) -> dict[str, dict[str, str]]:
    """Return the maximum interval of each kind: at least twice its interval, because the next run takes time."""
    backup = config.backup
    made = {
        "backup": {
            "max_interval": text_of(max(backup.rpo_objective, 2 * backup.every)),
            "rpo": text_of(backup.rpo_objective),
        },
        "drill": {"max_interval": text_of(WEEKLY)},
    }
    if wal := backup.point_in_time:
        late = max(ARCHIVE_MAX_INTERVAL, 5 * wal.wal_every)
        made[WAL] = {"max_interval": text_of(late), "lag": text_of(late)}
    for pair in config.replication:
        made[replication(pair.source, pair.target)] = {
            "max_interval": text_of(max(pair.lag_objective, 2 * pair.every)),
            "lag": text_of(pair.lag_objective),
        }
    return made


def write(platform: Platform, file: Path) -> Path:
    """Write the file with the platform's endpoint. Raises ConfigError if it exists.

    Raises ConnectionMissing, LedgerError if the platform's site or key is unknown here.
    """
    config = platform.config
    name = config.backup.site
    extra = platform.connections(config.sites[name].connection).extra
    site = {
        "name": name,
        "endpoint": extra.get("endpoint_url"),
        "region": extra.get("region_name", config.sites[name].region),
        "bucket": config.buckets.backups,
        "access_key_env": ACCESS_KEY,
        "secret_key_env": SECRET_KEY,
        **{key: extra[key] for key in ("addressing_style", "ca_bundle") if key in extra},
    }
    plain: dict[str, Any] = {
        "site": site,
        "keys": [to_base64(platform.signer().public)],
        "kinds": limits(config),
        "remind": "4h",
        "state": "watch-state.json",
    }
    head = _HEAD.format(access=ACCESS_KEY, secret=SECRET_KEY, connection=f"connection {watcher(name)}")
    text = head + yaml.safe_dump(plain, sort_keys=False) + _ALERTS
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError as cause:
        raise ConfigError(f"{file} already exists", "Name another file, or remove it first.") from cause
    load(file)
    return file
