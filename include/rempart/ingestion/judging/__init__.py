"""How Great Expectations judges many rows: each distinct value once, in processes of their own if there are many."""
