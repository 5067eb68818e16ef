"""Reading recorded episodes: what happened, and why."""
