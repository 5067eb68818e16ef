"""Policies: what continues a conversation."""
