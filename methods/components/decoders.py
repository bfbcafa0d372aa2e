"""The trainable parts of reverse distillation: a bottleneck that condenses the features, a decoder that restores them.

Both are built from the teacher's own kind of residual block (RD, CVPR 2022, section 3.2, and hq-deng/RD4AD @6554076):
bottleneck blocks for a ResNet-50 or WideResNet-50, basic blocks for a ResNet-18 or 34, and two basic blocks per stage
for other teachers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from methods.components.teachers import Teacher


class Blocks(NamedTuple):
    """The teacher's kind of residual block."""

    kind: type[BasicBlock] | type[Bottleneck]
    base_width: int  # channels of the 3x3 convolution of a 64-plane block
    depths: tuple[int, int, int]  # number of blocks in each stage

    @classmethod
    def of(cls, teacher: Teacher) -> Blocks:
        stages: list[Any] = [getattr(teacher.network.model, f"layer{level}", None) for level in (1, 2, 3)]
        last = stages[2][-1] if isinstance(stages[2], nn.Sequential) else None
        if not isinstance(last, BasicBlock | Bottleneck):
            return cls(BasicBlock, 64, (2, 2, 2))
        width = 64 if isinstance(last, BasicBlock) else last.conv2.out_channels * 256 // teacher.channels[2]
        return cls(type(last), width, (len(stages[0]), len(stages[1]), len(stages[2])))


def residual_stage(
    blocks: Blocks, depth: int, channels: int, out_channels: int, resize: Literal["halve", "double"]
) -> nn.Sequential:
    """A stage of residual blocks whose first one halves or doubles the resolution.

    To double, that block's strided convolution and its shortcut are transposed convolutions, 2x2 with stride 2.
    """
    planes = out_channels // blocks.kind.expansion

    def block(channels: int, **first: Any) -> nn.Module:
        return blocks.kind(channels, planes, base_width=blocks.base_width, **first)

    if resize == "halve":
        shortcut: nn.Module = nn.Conv2d(channels, out_channels, 1, 2, bias=False)
        first = block(channels, stride=2, downsample=nn.Sequential(shortcut, nn.BatchNorm2d(out_channels)))
    else:
        shortcut = nn.ConvTranspose2d(channels, out_channels, 2, 2, bias=False)
        first = block(channels, downsample=nn.Sequential(shortcut, nn.BatchNorm2d(out_channels)))
        strided = "conv1" if blocks.kind is BasicBlock else "conv2"
        replaced = getattr(first, strided)
        setattr(first, strided, nn.ConvTranspose2d(replaced.in_channels, replaced.out_channels, 2, 2, bias=False))
    return nn.Sequential(first, *(block(out_channels) for _ in range(depth - 1)))


def initialise(network: nn.Module) -> None:
    """Kaiming initialisation of the convolutions (fan out), as in RD's code; transposed ones keep torch's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _halve(channels: int, out_channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out_channels, 3, 2, 1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class OneClassBottleneck(nn.Module):
    """OCBE: multi-scale feature fusion (MFF), then one-class embedding (OCE), a fourth residual stage (section 3.3).

    Shapes for WideResNet-50-2 at 256 pixels: 256x64x64, 512x32x32 and 1024x16x16 are fused to 3072x16x16 and
    embedded in 2048x8x8.
    """

    def __init__(self, teacher: Teacher, base_width: int | None = None) -> None:
        super().__init__()
        fine, middle, coarse = teacher.channels
        blocks = Blocks.of(teacher)
        if base_width and blocks.kind is Bottleneck:
            blocks = blocks._replace(base_width=base_width)
        self.fuse = nn.ModuleList([nn.Sequential(*_halve(fine, middle), *_halve(middle, coarse)),
                                   nn.Sequential(*_halve(middle, coarse)), nn.Identity()])  # fmt: skip
        self.embed = residual_stage(blocks, blocks.depths[0], 3 * coarse, 2 * coarse, "halve")
        initialise(self)

    def forward(self, features: list[Tensor]) -> Tensor:
        fused = [fuse(level) for fuse, level in zip(self.fuse, features, strict=True)]  # each (B, C_3, s/16, s/16)
        return self.embed(torch.cat(fused, 1))  # (B, 2 C_3, s/32, s/32)


class Decoder(nn.Module):
    """The teacher in reverse: three stages, each doubling the resolution. No skip leads from the teacher to it.

    Attributes:
        stages: coarsest first; their outputs are the student's features.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        fine, middle, coarse = teacher.channels
        blocks = Blocks.of(teacher)
        widths = [(2 * coarse, coarse), (coarse, middle), (middle, fine)]
        # RD's code gives the coarsest stage of the decoder as many blocks as the finest stage of the teacher has.
        self.stages = nn.ModuleList(
            residual_stage(blocks, depth, *width, "double") for depth, width in zip(blocks.depths, widths, strict=True)
        )
        initialise(self)

    def forward(self, code: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            code = stage(code)
            features.append(code)
        return features[::-1]  # finest first, as the teacher's


class ReverseStudent(nn.Module):
    """Bottleneck and decoder: from the teacher's features to their reconstruction, level by level."""

    def __init__(self, bottleneck: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.bottleneck, self.decoder = bottleneck, decoder

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return self.decoder(self.bottleneck(features))
