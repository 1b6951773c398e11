"""The embedded stack: real servers as local processes, supervised."""
