"""Turn the text of cells into values of their types, the schema of a snapshot among them; formats of deliveries."""
