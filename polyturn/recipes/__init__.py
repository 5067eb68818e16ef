"""Runnable recipes, one file each."""
