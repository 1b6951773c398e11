"""Manage evidence, its export, audits, people, and network rules."""
