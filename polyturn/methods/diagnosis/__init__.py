"""Methods that read what was recorded: what happened, and why."""
