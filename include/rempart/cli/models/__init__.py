"""Commands about how a model came to its parameters: `rempart model search`."""
