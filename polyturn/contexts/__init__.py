"""What a policy sees of an agent's log."""
