"""Where images come from, and what changes them before a model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.datasets.base import DataSet

DATASETS: Registry[type[DataSet]] = Registry(
    "data set",
    builtin={
        "arrays": "evalsuite.datasets.arrays:Arrays",
        "cifar10": "evalsuite.datasets.arrays:Cifar10",
        "cifar10.1": "evalsuite.datasets.cifar_reproductions:Cifar101",
        "cifar10.1-v4": "evalsuite.datasets.cifar_reproductions:Cifar101V4",
        "cifar10.2": "evalsuite.datasets.cifar_reproductions:Cifar102",
        "cifar100": "evalsuite.datasets.arrays:Cifar100",
        "digits": "evalsuite.datasets.digits:Digits",
        "fashion-mnist": "evalsuite.datasets.arrays:FashionMnist",
        "folder": "evalsuite.datasets.folders:Folder",
        "gaussian-noise": "evalsuite.datasets.outliers:GaussianNoise",
        "letters": "evalsuite.datasets.outliers:Letters",
        "mnist": "evalsuite.datasets.arrays:Mnist",
        "photographs": "evalsuite.datasets.outliers:Photographs",
        "places365": "evalsuite.datasets.folders:Places365",
        "svhn": "evalsuite.datasets.arrays:Svhn",
        "textures": "evalsuite.datasets.folders:Textures",
        "tin": "evalsuite.datasets.folders:TinyImageNet",
        "uniform-noise": "evalsuite.datasets.outliers:UniformNoise",
    },
    group="evalsuite.datasets",
)
register = DATASETS.register
