"""Which reward channels an advantage may have been made of: the record holds all that were paid, and not the choice."""

from __future__ import annotations

from polyturn.arrays import Turns


def whole_channels(turns: Turns) -> list[int]:
    """The places of the channels that score a trajectory as a whole. A verifier that also pays by turn (channels
    ``name/...``) does not count: its total only sums up what it found."""
    by_turn = {name.split("/")[0] for name in turns.channels if "/" in name}
    return [c for c, name in enumerate(turns.channels) if "/" not in name and name not in by_turn]
