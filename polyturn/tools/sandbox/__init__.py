"""Untrusted Python: a child interpreter that keeps its variables, behind the best isolation the machine has."""
