"""Replace the running release by this one, and go back."""
