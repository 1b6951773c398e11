"""Archive WAL, and recover the server to a moment."""
