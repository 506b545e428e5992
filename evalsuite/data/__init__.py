"""Where images come from, and what changes them before a model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.data.dataset import DataSet

DATASETS: Registry[type[DataSet]] = Registry(
    "data set",
    builtin={
        "arrays": "evalsuite.data.arrays:Arrays",
        "cifar10": "evalsuite.data.arrays:Cifar10",
        "cifar10.1": "evalsuite.data.reproductions:Cifar101",
        "cifar10.1-v4": "evalsuite.data.reproductions:Cifar101V4",
        "cifar10.2": "evalsuite.data.reproductions:Cifar102",
        "cifar100": "evalsuite.data.arrays:Cifar100",
        "digits": "evalsuite.data.digits:Digits",
        "fashion-mnist": "evalsuite.data.arrays:FashionMnist",
        "folder": "evalsuite.data.folders:Folder",
        "gaussian-noise": "evalsuite.data.outliers:GaussianNoise",
        "letters": "evalsuite.data.outliers:Letters",
        "mnist": "evalsuite.data.arrays:Mnist",
        "photographs": "evalsuite.data.outliers:Photographs",
        "places365": "evalsuite.data.folders:Places365",
        "svhn": "evalsuite.data.arrays:Svhn",
        "textures": "evalsuite.data.folders:Textures",
        "tin": "evalsuite.data.folders:TinyImageNet",
        "uniform-noise": "evalsuite.data.outliers:UniformNoise",
    },
    group="evalsuite.datasets",
)
register = DATASETS.register
