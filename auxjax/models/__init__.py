"""Models: plain Linen modules, their submodules named as published, that know nothing of auxiliary heads."""

from __future__ import annotations

import flax.linen as nn

from auxjax.models.alexnet import AlexNet
from auxjax.models.bn_inception import BNInception
from auxjax.models.darts import DARTS
from auxjax.models.densenet import DenseNet
from auxjax.models.dsn import DSN
from auxjax.models.fcn import FCN
from auxjax.models.googlenet import GoogLeNet
from auxjax.models.inception_resnet_v2 import InceptionResNetV2
from auxjax.models.inception_v3 import InceptionV3
from auxjax.models.inception_v4 import InceptionV4
from auxjax.models.nasnet import NASNetA
from auxjax.models.plainnet import PlainNet
from auxjax.models.pspnet import PSPNet
from auxjax.models.resnet import ResNet
from auxjax.models.resnet_cifar import CifarResNet
from auxjax.models.unet import UNet
from auxjax.models.vgg import VGG
from auxjax.models.vit import ViT

MODELS: dict[str, type[nn.Module]] = {
    "alexnet": AlexNet,
    "bn_inception": BNInception,
    "cifar_resnet": CifarResNet,
    "darts": DARTS,
    "densenet": DenseNet,
    "dsn": DSN,
    "fcn": FCN,
    "googlenet": GoogLeNet,
    "inception_resnet_v2": InceptionResNetV2,
    "inception_v3": InceptionV3,
    "inception_v4": InceptionV4,
    "nasnet_a": NASNetA,
    "plainnet": PlainNet,
    "pspnet": PSPNet,
    "resnet": ResNet,
    "unet": UNet,
    "vgg": VGG,
    "vit": ViT,
}
