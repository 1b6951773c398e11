"""Ingest deliveries into snapshots: new deliveries, accepted deliveries, and deliveries ingested again."""
