"""One module per server: how it is prepared, and the requests that prove that it works."""
