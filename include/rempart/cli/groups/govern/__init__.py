"""Commands for those who answer for the platform: evidence, policy, users and audits."""
