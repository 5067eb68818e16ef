"""Polyturn: train, run, evaluate and diagnose language-model agents that act over many turns."""
