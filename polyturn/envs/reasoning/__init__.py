"""Reasoning Gym: generated problems of about a hundred kinds, each with a rule that judges the answer."""
