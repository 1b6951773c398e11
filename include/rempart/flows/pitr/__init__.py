"""Archives WAL, and recovers the server to a moment."""
