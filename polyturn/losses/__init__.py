"""Losses: from credit to a gradient, as functions of tensors that never divide and never change themselves."""
