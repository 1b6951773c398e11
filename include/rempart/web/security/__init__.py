"""Control who may see and post what: the auth manager, and the middleware of every request."""
