"""Control who may see and post: the auth manager, and the middleware of every request."""
