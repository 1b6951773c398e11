"""The demo: the whole chain on sample data, as a user would run it."""
