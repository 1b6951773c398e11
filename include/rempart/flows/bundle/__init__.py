"""Write and fetch the bootstrap bundle."""
