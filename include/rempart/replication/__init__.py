"""Replicate every object of one site to another, and record the verified replicas. Nothing is deleted at the target."""
