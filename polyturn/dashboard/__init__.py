"""The web dashboard of ``polyturn view``: runs, iterations, groups, episodes, turns, tokens."""
