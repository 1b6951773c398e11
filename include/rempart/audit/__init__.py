"""Audit the platform: bill of materials, licences, advisories, findings."""
