"""Environments: one file for each adapter to a real package, and our own."""
