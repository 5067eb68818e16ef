"""The scores of screen navigation in plain floats and loops, from replies that were taken apart by hand."""

from __future__ import annotations

WIDTH, HEIGHT = 1179, 2556


def terms(reply, wanted, tolerance):
    """(kind, coordinate, intent, right) of a reply ``(kind, x, y, icon)`` in thousandths, or None for an unreadable
    one; ``wanted`` is (name, left, top, right, bottom) in pixels, or None where ``complete`` is right."""
    if reply is None:
        return 0.0, 0.0, 0.0, False
    kind, x, y, icon = reply
    if wanted is None:
        if kind == "complete":
            return 1.0, 1.0, 1.0, True
        return 0.0, 0.0, 0.0, False
    name, left, top, right, bottom = wanted
    intent = 1.0 if icon == name else 0.0
    if kind == "complete":
        return 0.0, 0.0, intent, False
    column, row = min(x * WIDTH // 1000, WIDTH - 1), min(y * HEIGHT // 1000, HEIGHT - 1)
    strict = left <= column < right and top <= row < bottom
    beside, above = tolerance * WIDTH, tolerance * HEIGHT
    near = left - beside <= column < right + beside and top - above <= row < bottom + above
    return 1.0, 1.0 if near else 0.0, intent, intent == 1.0 and strict


def report(steps):
    """The static report of rows (task, trial, length, kind, right), category by category, by counting."""
    found = {}
    for name, fits in (
        ("all", lambda kind, length: kind in ("click", "complete")),
        ("clicks", lambda kind, length: kind == "click" and length != 1),
        ("edge", lambda kind, length: kind == "click" and length == 1),
        ("complete", lambda kind, length: kind == "complete"),
        ("caption", lambda kind, length: kind == "caption"),
        ("ground", lambda kind, length: kind == "ground"),
    ):
        good = asked = 0
        for _task, _trial, length, kind, right in steps:
            if fits(kind, length):
                asked += 1
                if right:
                    good += 1
        if asked:
            found[name] = good / asked
    for length in range(1, 8):
        own = [row for row in steps if row[2] == length and row[3] in ("click", "complete")]
        if own:
            found[f"length/{length}"] = path_by_steps(own)
            found[f"path/{length}"] = path(own)
    return found


def path_by_steps(steps):
    """The wrong unit: the share of right steps of whole tasks, instead of the share of tasks with all steps right."""
    good = asked = 0
    for _task, _trial, _length, kind, right in steps:
        if kind in ("click", "complete"):
            asked += 1
            good += 1 if right else 0
    return good / asked


def path(steps):
    """Path@ over all lengths."""
    tasks = []
    for task, trial, length, kind, _right in steps:
        if kind in ("click", "complete") and (task, trial, length) not in tasks:
            tasks.append((task, trial, length))
    whole = 0
    for name in tasks:
        count = 0
        for task, trial, length, kind, right in steps:
            if (task, trial, length) == name and kind in ("click", "complete") and right:
                count += 1
        if count == name[2] + 1:
            whole += 1
    return whole / len(tasks)


def reward(page, goal, completed, distance, kind):
    """A2B, A2B_wo or SoftA2B of the end of a play."""
    if kind == "a2b":
        return 1.0 if page == goal and completed else 0.0
    if kind == "a2b_wo":
        return 1.0 if page == goal else 0.0
    if distance is None:
        return 0.0
    value = 1.0
    for _ in range(distance):
        value /= 2.718281828459045
    return value
