"""Make the features of rows that are to be predicted, and that no snapshot holds: the training set's, as of now."""
