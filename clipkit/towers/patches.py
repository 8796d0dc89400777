"""Patches as a matrix product."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import linear

__all__ = ["PatchConv2d", "multiply_patches"]


class PatchConv2d(nn.Conv2d):
    """A convolution of pixels whose windows neither overlap nor leave gaps, on a CPU as one product of matrices.

    The gradient of the convolution is a quarter of a step of a ViT-S/32 in bf16 on a CPU. Weights are a ``Conv2d``'s.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H // P, W // Q), of patches of P x Q pixels."""
        if input.device.type != "cpu":
            return super().forward(input)
        high, wide = self.kernel_size
        rows, columns = input.shape[-2] // high, input.shape[-1] // wide
        pixels = input[..., : rows * high, : columns * wide].permute(0, 2, 3, 1)  # (B, H, W, C)
        patches = pixels.reshape(len(pixels), rows, high, columns, wide, -1)  # a view
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # (D, P Q C)
        return linear(patches.transpose(2, 3).flatten(3), weight, self.bias).permute(0, 3, 1, 2)


def multiply_patches(backbone: nn.Module) -> None:
    """Replace the convolutions of a backbone that cut pixels into patches by :class:`PatchConv2d`, weights and all."""
    for name, module in list(backbone.named_modules()):
        if type(module) is nn.Conv2d and module.in_channels == 3 and _cuts(module):
            high, wide = module.kernel_size
            size, biased = (high, wide), module.bias is not None
            patches = PatchConv2d(3, module.out_channels, size, size, bias=biased, device="meta")
            patches.weight, patches.bias = module.weight, module.bias
            backbone.set_submodule(name, patches.train(module.training))


def _cuts(conv: nn.Conv2d) -> bool:
    whole = conv.stride == conv.kernel_size != (1, 1) and conv.padding in ((0, 0), "valid")
    return whole and conv.dilation == (1, 1) and conv.groups == 1
