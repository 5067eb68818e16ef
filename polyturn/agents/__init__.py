"""Agents: who answers an ask, by one call or by ten."""
