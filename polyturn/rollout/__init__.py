"""Running matches: one, many, served."""
