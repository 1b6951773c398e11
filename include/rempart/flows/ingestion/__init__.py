"""Ingest deliveries into snapshots: new deliveries, accepted ones, and ones ingested again."""
