"""The tests of the package: run `pytest` here after `pip install -e .`."""

from __future__ import annotations

from evalsuite_outside import Greys, Slim, Tail, Unconfidence

from evalsuite import testing
from evalsuite.plugins import Place, build_model


def test_the_method_conforms() -> None:
    testing.check_producer(Tail())


def test_the_test_conforms() -> None:
    testing.check_evaluator(Unconfidence())


def test_the_network_conforms() -> None:
    testing.check_model(build_model(Slim()))


def test_the_data_set_has_no_labels() -> None:
    images = Greys().load("test", Place())
    assert images.images.shape == (64, 3, 32, 32)
    assert images.labels is None
