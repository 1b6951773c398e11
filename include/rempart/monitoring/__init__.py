"""Watching a champion: profiles of what it learned from, and how far what it sees now has moved from them."""
