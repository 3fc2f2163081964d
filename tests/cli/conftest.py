"""Checkpoints, and the command line in this process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_share.lab.cli import main


@pytest.fixture
def tied():
    """Two layers with one weight, transposed in the second, and sparse rows."""
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {"a": nn.Linear(40, 40), "b": nn.Linear(40, 40), "c": nn.Linear(40, 40, bias=False)}
    )
    net["b"].weight = net["a"].weight
    with torch.no_grad():
        net["c"].weight.masked_fill_(torch.rand(40, 40) < 0.9, 0.0)
    return net


@pytest.fixture
def run(capsys):
    """Runs the command line: its exit code, and what it wrote to stdout and stderr."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def refused(run):
    """Runs a command line that is refused: the one line on stderr."""

    def refused(*arguments):
        code, out, err = run(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("lit-share: ")
        assert err.count("\n") == 1
        return err

    return refused
