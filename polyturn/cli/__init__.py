"""The command line: ``main.py`` chooses a command, each command is a file; heavy imports stand inside functions."""
