"""What the platform is made of and how it stands: bill of materials, licences, advisories, and the audit's findings."""
