"""Keys of encryption scopes: made once, encrypted to their recipients, kept where every copy can be deleted."""
