"""The audit of a run: its paths, its trained tokens, and what was made of them; one file a detector."""
