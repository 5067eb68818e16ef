"""Foreign formats: one file each, between its records and our episodes."""
