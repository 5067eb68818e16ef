"""Runnable recipes, one file each.

A recipe is a module with

- ``Settings``: a flat frozen dataclass of at most 20 fields with defaults; each field is a typed flag of
  ``polyturn run``, its docstring or comment the help. A field ``seed`` is the run's seed.
- ``async def main(settings, run)``: does the work with a :class:`polyturn.learn.run.Run`; what it finds goes into
  ``run.keep(...)``, which ``polyturn run --json`` prints. ``run.keep(model="stage2")`` names the stage whose model is
  the run's result, where that is not the newest.
- optional ``held_out(settings)``: the matches that ``polyturn eval`` plays, with the policy to be judged in the seats
  whose player's policy is ``"main"``.
- optional ``foresee(settings)``: ``{"seconds": ..., "bytes": ..., "usd": ..., "stages": {name: seconds}}``: what
  ``run --dry-run`` shows; the stages, named as the progress names them and in order, give the time left.
- optional ``NEEDS``: pairs of settings and what they need to do anything, ``(("warm_lr",), {"warm_updates": ()})``: for
  each other setting the values that will do, ``()`` = any but an empty one, as 0. ``polyturn run`` refuses a setting
  that would do nothing, and says which.
- optional ``PROCESSES = True``: its decoupled training may have episodes played by other processes (``--processes``).
- optional ``RANKS = True``: says that every learner is made by ``run.learner(policy, lr=...)`` when its stage
  begins, and no two are used in turns; then ``polyturn run --ranks N`` may put it on several processes.
- optional ``text(results)``: what ``polyturn run`` prints at the end, e.g. a table.

The same holds for a user's own file: ``polyturn run path/to/recipe.py``.
"""
