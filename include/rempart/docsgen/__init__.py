"""Write docs/reference."""
