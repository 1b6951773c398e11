"""Manage evidence, its export, audits, people, network rules, and logs of tasks."""
