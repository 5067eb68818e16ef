"""Methods about how an agent acts: its actions, plans, teams and searches."""
