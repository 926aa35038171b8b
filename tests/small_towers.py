"""Small random image towers of every family, with 5 x 7 patches or a ResNet's four stages."""

import torch


def open_clip_vit(depth: int):
    from open_clip.transformer import VisionTransformer

    return VisionTransformer((40, 56), 8, width=16, layers=depth, heads=2, mlp_ratio=2.0, output_dim=8)


def timm_model(name: str, depth: int, **trunk):
    """timm's tower within open_clip's, with the trunk built anew."""
    from open_clip.timm_model import TimmModel

    visual = TimmModel(name, embed_dim=8, image_size=trunk["img_size"], pool="", proj="linear")
    visual.trunk = type(visual.trunk)(patch_size=8, embed_dim=16, depth=depth, num_heads=2, num_classes=0, **trunk)
    visual.head.proj = torch.nn.Linear(16, 8)
    return visual


def without_class_token(depth: int):
    return timm_model("vit_tiny_patch16_224", depth, img_size=(40, 56), class_token=False, global_pool="avg")


def with_registers(depth: int):
    return timm_model("vit_tiny_patch16_224", depth, img_size=(40, 56), reg_tokens=3, global_pool="token")


def with_norms_and_scales(depth: int):
    extra = {"qk_norm": True, "scale_attn_norm": True, "scale_mlp_norm": True, "init_values": 0.5}
    return timm_model("vit_tiny_patch16_224", depth, img_size=(40, 56), global_pool="token", **extra)


def eva(depth: int):
    return timm_model("eva02_tiny_patch14_224", depth, img_size=(40, 56), use_rot_pos_emb=True, swiglu_mlp=True)


def resnet(depth: int):
    from open_clip.modified_resnet import ModifiedResNet

    return ModifiedResNet([1, 1, 1, 1], output_dim=8, heads=2, image_size=160, width=4)


# Family -> tower, and how many tokens come before the patches: the first is the class token, where there is any.
TOWERS = {
    "ViT": (open_clip_vit, 1),
    "no class token": (without_class_token, 0),
    "registers": (with_registers, 4),
    "norms and scales": (with_norms_and_scales, 1),
    "EVA": (eva, 1),
    "ResNet": (resnet, None),
}

MERGING = {"ViT": 8, "no class token": 5, "registers": 17, "norms and scales": 4}
"""Family that can merge tokens -> number of tokens that each block merges in tests."""
ALL = (*TOWERS, *(f"{name}, merging" for name in MERGING))


def small_tower(name: str, depth: int = 2):
    """Build a tower with random weights; a name that ends in `merging` is that of a tower that merges tokens.

    It has `depth` blocks, or if it is a ResNet always four.
    """
    from tgems.backbones.merging_towers import with_merging
    from tgems.backbones.towers import as_tower

    family, _, merging = name.partition(", ")
    torch.manual_seed(0)
    visual = TOWERS[family][0](depth).eval().requires_grad_(False)
    for parameter in visual.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return with_merging(as_tower(visual), MERGING[family] if merging else 0, name)
