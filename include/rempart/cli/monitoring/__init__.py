"""The command that tells what the watch of a champion found."""
