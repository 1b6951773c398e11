"""Age of the online values of feature views, and their comparison with what the snapshot's rows give."""
