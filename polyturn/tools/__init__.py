"""Tools that an agent holds: a sandbox for untrusted code, functions under one registry."""
