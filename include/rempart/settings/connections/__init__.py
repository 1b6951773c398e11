"""Fields of connections, whichever backend they come from."""
