"""Commands that operate the platform: its stack, services, pools, databases, configuration and watch."""
