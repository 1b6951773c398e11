"""Who may see and post what: the auth manager, and the middleware that guards every request."""
