"""Context drift in plain floats and loops: the recurrence, the fit with a reminder term, when reminders are due."""

from __future__ import annotations


def recurrence(start: float, a: float, b: float, noise: list[float], reminder: list[float]) -> list[float]:
    found = [start]
    for t in range(len(noise)):
        now = found[t]
        found.append(now + a + b * now + noise[t] - reminder[t])
    return found


def solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gauss elimination with pivots."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda r: abs(rows[r][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for r in range(size):
            if r != column:
                factor = rows[r][column] / rows[column][column]
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[column], strict=True)]
    return [rows[r][size] / rows[r][r] for r in range(size)]


def fit(series: list[list[float]], marks: list[list[bool]], *, shifted: bool = True) -> list[float]:
    """a, b, d of ``D_{t+1} - D_t = a + b D_t - d I_{t+1}``; ``shifted=False`` is the wrong turn, I_t."""
    rows, targets = [], []
    for one, mark in zip(series, marks, strict=True):
        for t in range(len(one) - 1):
            rows.append([1.0, one[t], -float(mark[t + 1] if shifted else mark[t])])
            targets.append(one[t + 1] - one[t])
    gram = [[sum(row[i] * row[j] for row in rows) for j in range(3)] for i in range(3)]
    return solved(gram, [sum(row[i] * y for row, y in zip(rows, targets, strict=True)) for i in range(3)])


def reminders(kind: str, drift: list[float], *, turns: list[int], every: int, threshold: float, budget: int, apart: int
              ) -> list[int]:
    """The turns before which the goal is recalled; ``drift[t - 1]`` is D of turn t."""
    given: list[int] = []
    for turn in range(1, len(drift) + 1):
        if kind == "fixed":
            due = turn in turns
        elif kind == "every":
            due = turn % every == 0
        elif kind == "none" or turn == 1:
            due = False
        else:
            due = drift[turn - 2] > threshold
            if kind == "budgeted" and due:
                due = len(given) < budget and (not given or turn - given[-1] >= apart)
        if due:
            given.append(turn)
    return given
