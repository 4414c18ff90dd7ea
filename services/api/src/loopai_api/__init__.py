"""HTTP in and out: validates, turns requests into commands. No store, no business rules."""
