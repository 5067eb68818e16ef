"""The conformance checks behind :mod:`polyturn.testing`."""
