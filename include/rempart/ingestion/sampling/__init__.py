"""A bounded sample of a file or a database table, and what it shows about columns, keys, times and the target."""
