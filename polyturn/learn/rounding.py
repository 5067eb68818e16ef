"""How far what is measured beside a step may be from 0 by rounding alone; light, for who only judges the record."""

from __future__ import annotations

MOST = {"audit/split": 1e-6, "audit/accumulated": 2e-3}
"""Measurement of :mod:`polyturn.learn.split` -> the most that is rounding; the learner adds up in its own number type,
so ``accumulated`` is allowed more."""
