"""The tables of the online store: which there are, how they are written, and how Feast uses them."""
