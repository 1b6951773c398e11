"""Write what commands show: tables, states and comparisons as lines of text or one JSON document. No decisions."""
