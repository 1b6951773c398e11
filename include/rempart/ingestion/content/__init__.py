"""Rows that stay and rows that go: how a snapshot grows by parts, and how rows are removed from deliveries."""
