"""Heartbeats of backups, replications and drills, and what the watch makes of them."""
