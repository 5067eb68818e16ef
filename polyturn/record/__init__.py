"""The record of a run: append-only tables while it runs, one joined view once it is closed, and a report of both."""
