"""The data profile of a snapshot: what its columns hold, as figures, plots and a page. No value of a person in it."""
