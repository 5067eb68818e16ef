"""Decoupled training: environments, sampling pool, data manager and learner work at the same time."""
