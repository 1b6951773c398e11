"""Age of what the feature store holds, and the comparison of online values with what the snapshot's rows give."""
