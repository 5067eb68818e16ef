from __future__ import annotations

import pickle

import pytest

from polyturn import errors
from polyturn.errors import BadInput, MissingPackage, PolyturnError, UnknownName


def test_every_error_is_ours_and_the_builtin_it_specialises() -> None:
    own = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, PolyturnError)]
    assert len(own) >= 10
    for error in own:
        builtin = [base for base in error.__mro__ if base.__module__ == "builtins" and base not in (Exception, object)]
        assert error is PolyturnError or len(builtin) > 1, error  # BaseException and one more


def test_an_unknown_name_offers_the_nearest() -> None:
    assert "did you mean 'quickstart'?" in str(UnknownName("recipe", "quickstrat", ["quickstart", "spiral"]))
    assert str(UnknownName("recipe", "x", [])) == "no recipe named 'x'; known: none"


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(ImportError, match=r"pip install 'polyturn\[gym\]'"):
        raise MissingPackage("gymnasium", "gym")
    assert str(MissingPackage("data", command="polyturn envs --install x")).endswith("with: polyturn envs --install x")


def test_errors_survive_a_process_boundary() -> None:
    assert str(pickle.loads(pickle.dumps(BadInput("a")))) == "a"
