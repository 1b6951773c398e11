"""Replication: bring every object of one site to another, and know what is there. Nothing is deleted at the target."""
