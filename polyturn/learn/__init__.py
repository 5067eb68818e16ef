"""Learning: learner, loop, curriculum, checkpoints."""
