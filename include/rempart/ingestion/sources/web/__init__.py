"""The source `http`: the client, pages of an API, and downloads."""
