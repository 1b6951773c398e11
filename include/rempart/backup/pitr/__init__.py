"""The archive for point-in-time recovery: base backups, WAL segments, and the way from them to a moment."""
