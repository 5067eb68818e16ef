"""A slow twin of how CodeAct reads replies and counts turns: plain loops over characters and lists."""

from __future__ import annotations


def places(text: str) -> list[tuple[int, str]]:
    """Where each marker begins, in order."""
    found = []
    i = 0
    while i < len(text):
        if text[i:i + 7] in ("Action:", "Answer:"):
            found.append((i, text[i:i + 7]))
            i += 7
        else:
            i += 1
    return found


def find(text: str, what: str, start: int) -> int:
    for i in range(start, len(text) - len(what) + 1):
        if text[i:i + len(what)] == what:
            return i
    return -1


def slow_truncated(text: str) -> str:
    while text and text[0].isspace():
        text = text[1:]
    found = places(text)
    if len(found) < 2:
        return text
    first, second = found[0], found[1]
    kept = text[: second[0]].strip()
    if first[1] == "Action:":
        end = find(kept, "End Action", first[0] + 7)
        if end >= 0:
            kept = kept[: end + 10]
    thought = find(kept, "Thought:", first[0] + 7)
    if thought >= 0:
        kept = kept[:thought].strip()
    return kept


def slow_kind(text: str) -> str:
    kinds = {kind for _, kind in places(text)}
    if len(kinds) != 1:
        return "invalid_action"
    return "use_tool" if kinds == {"Action:"} else "propose_solution"


def slow_stop(kinds: list[str], right: list[bool], turns: int, proposals: int | None) -> tuple[int, str]:
    """(turns taken, why it ended) of an episode whose replies have these kinds; ``right`` counts for answers."""
    taken = 0
    proposed = 0
    for kind, good in zip(kinds, right, strict=True):
        if taken >= turns:
            return taken, "turns"
        if proposals is not None and proposed >= proposals:
            return taken, "proposals"
        taken += 1
        if kind == "propose_solution":
            proposed += 1
            if good:
                return taken, "right"
    return taken, "turns" if taken >= turns else "proposals" if proposed == proposals else "open"


def slow_stop_by_tool_use(kinds: list[str], right: list[bool], turns: int, proposals: int | None) -> tuple[int, str]:
    """The wrong unit: only tool actions count as turns."""
    taken = used = 0
    for kind, good in zip(kinds, right, strict=True):
        if used >= turns:
            return taken, "turns"
        taken += 1
        used += kind == "use_tool"
        if kind == "propose_solution" and good:
            return taken, "right"
    return taken, "open"
