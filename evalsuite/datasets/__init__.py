"""Data sets, and the transforms of their images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalsuite.registry import Registry

if TYPE_CHECKING:
    from evalsuite.datasets.base import DataSet

DATASETS: Registry[type[DataSet]] = Registry(
    "data set",
    builtin={
        "arrays": "evalsuite.datasets.arrays:Arrays",
        "cifar10": "evalsuite.datasets.cifar:Cifar10",
        "cifar10.1": "evalsuite.datasets.cifar:Cifar101",
        "cifar10.1-v4": "evalsuite.datasets.cifar:Cifar101V4",
        "cifar10.2": "evalsuite.datasets.cifar:Cifar102",
        "cifar100": "evalsuite.datasets.cifar:Cifar100",
        "digits": "evalsuite.datasets.digits:Digits",
        "fashion-mnist": "evalsuite.datasets.outliers:FashionMnist",
        "folder": "evalsuite.datasets.folders:Folder",
        "gaussian-noise": "evalsuite.datasets.outliers:GaussianNoise",
        "image-list": "evalsuite.datasets.image_lists:ImageList",
        "huggingface": "evalsuite.datasets.huggingface:HuggingFace",
        "imagenet": "evalsuite.datasets.imagenet:ImageNet",
        "imagenet-a": "evalsuite.datasets.imagenet:ImageNetA",
        "imagenet-o": "evalsuite.datasets.imagenet:ImageNetO",
        "imagenet-r": "evalsuite.datasets.imagenet:ImageNetR",
        "imagenet-sketch": "evalsuite.datasets.imagenet:ImageNetSketch",
        "imagenet-v2": "evalsuite.datasets.imagenet:ImageNetV2",
        "inaturalist": "evalsuite.datasets.image_lists:INaturalist",
        "letters": "evalsuite.datasets.outliers:Letters",
        "mnist": "evalsuite.datasets.outliers:Mnist",
        "ninco": "evalsuite.datasets.image_lists:Ninco",
        "objectnet": "evalsuite.datasets.objectnet:ObjectNet",
        "openimage-o": "evalsuite.datasets.image_lists:OpenImageO",
        "photographs": "evalsuite.datasets.outliers:Photographs",
        "places365": "evalsuite.datasets.outliers:Places365",
        "ssb-hard": "evalsuite.datasets.image_lists:SsbHard",
        "svhn": "evalsuite.datasets.outliers:Svhn",
        "textures": "evalsuite.datasets.outliers:Textures",
        "tin": "evalsuite.datasets.outliers:TinyImageNet",
        "uniform-noise": "evalsuite.datasets.outliers:UniformNoise",
    },
    group="evalsuite.datasets",
)
