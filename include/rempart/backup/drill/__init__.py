"""What a drill compares, plays as an attack and reports, and the scratch space that it works in."""
