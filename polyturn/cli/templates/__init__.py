"""Texts that ``polyturn new`` writes: ``NAME`` in them becomes the chosen name."""
