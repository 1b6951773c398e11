"""How text becomes numbers, dates, instants and arrays in a source's dialect, and how a dialect is recognised. Pure."""
