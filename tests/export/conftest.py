"""Fixtures of the tests of exports."""

import sys

import pytest


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command of imtok; what it prints, on standard error if it ends with another code than 0."""
    from imtok.cli import main

    def call(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["imtok", *arguments])
        try:
            main()
            ended = 0
        except SystemExit as exit_:
            ended = exit_.code
        printed = capsys.readouterr()
        assert ended == code, printed
        return printed.out if code == 0 else printed.err

    return call
