"""What explains a version: measured when it is registered, and told by its model card when it is judged."""
