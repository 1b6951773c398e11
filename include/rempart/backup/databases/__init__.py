"""Dumps of the platform's databases: PostgreSQL's and restic's programs, and the repositories at a site."""
