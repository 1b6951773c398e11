"""The champion behind the scorer: read from evidence and a site, features of single rows, changed without a pause."""
