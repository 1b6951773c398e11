"""Leases, the active site, and the database that keeps them."""
