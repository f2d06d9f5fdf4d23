"""One file per command: ``run`` is what it does once its words are read. ``imtok/cli.py`` imports the one asked for."""
