"""Pages of the cockpit: one module per page, and what their forms and posts share."""
