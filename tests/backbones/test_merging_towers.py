"""Towers that merge tokens, against loops that merge the tokens of one image in open_clip's and timm's own blocks."""

import math

import open_clip
import pytest
import timm
import torch
from backbones.test_all_models import on_meta, refusal
from conftest import DEMO
from small_towers import MERGING, small_tower
from torch import Tensor
from torch.nn import functional as F

from tgems.architectures.catalog import TIMM_EVA, architecture, check_merging, check_supported
from tgems.backbones.load import build_image_tower, load_backbone
from tgems.backbones.merging_towers import with_merging
from tgems.backbones.source import find_source
from tgems.backbones.states import MergedTokens, concatenate
from tgems.backbones.towers import as_tower
from tgems.errors import UserError

R = 3
COUNTS = {
    "ViT": (35, 27, 19),
    "no class token": (35, 30, 25),
    "registers": (35, 18, 9),
    "norms and scales": (35, 31, 27),
}


@pytest.fixture(scope="module", params=MERGING)
def both(request):
    """A plain tower, the one that merges its tokens, and how many patches that one has before and after each block."""
    return small_tower(request.param), small_tower(f"{request.param}, merging"), COUNTS[request.param]


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 40, 56, generator=torch.Generator().manual_seed(1))


def halves(block, tokens: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Apply the block's own attention to the tokens of an image `[1, N, w]`; also returns keys `[N, d]`."""
    mask = torch.tensor([math.log(size) for size in sizes]).expand(len(sizes), -1)
    if isinstance(block, timm.models.vision_transformer.Block):
        x = block.norm1(tokens)
        keys = block.attn.k_norm(block.attn.qkv(x)[0].unflatten(1, (3, block.attn.num_heads, -1))[:, 1])
        return tokens + block.ls1(block.attn(x, attn_mask=mask)), keys.mean(1)
    x = block.ln_1(tokens)
    keys = F.linear(x, *(p.chunk(3)[1] for p in (block.attn.in_proj_weight, block.attn.in_proj_bias)))[0]
    return tokens + block.attention(x, attn_mask=mask), keys.unflatten(1, (block.attn.num_heads, -1)).mean(1)


def mlp(block, tokens: Tensor) -> Tensor:
    """Apply the block's own MLP."""
    if isinstance(block, timm.models.vision_transformer.Block):
        return tokens + block.ls2(block.mlp(block.norm2(tokens)))
    return tokens + block.mlp(block.ln_2(tokens))


def walk(tower, image: Tensor, prefix: int, r: int) -> list[list[tuple[Tensor, list[int]]]]:
    """Tokens of an image after every block, in order: its values, and the patches that it stands for."""
    tokens = tower.plain.stem(image[None])[0]
    state = [(token, [k - prefix] if k >= prefix else []) for k, token in enumerate(tokens)]
    after = []
    for block in tower.blocks:
        values = torch.stack([value for value, _ in state])[None]
        attended, keys = halves(block, values, [max(len(own), 1) for _, own in state])
        a, b = range(prefix + prefix % 2, len(state), 2), range(prefix + 1 - prefix % 2, len(state), 2)
        likeness = {i: [F.cosine_similarity(keys[i], keys[j], 0).item() for j in b] for i in a}
        gone = sorted(a, key=lambda i: -max(likeness[i]))[: min(r, (len(state) - prefix) // 2)]
        sources = {i: [i] for i in range(len(state)) if i not in gone}
        for i in gone:
            sources[b[likeness[i].index(max(likeness[i]))]].append(i)
        order = [*range(prefix), *(i for i in a if i not in gone), *b]
        state = []
        for i in order:
            counts = [max(len(own), 1) for own in (after[-1][k][1] if after else [k] for k in sources[i])]
            mean = sum(n * attended[0, k] for n, k in zip(counts, sources[i], strict=True)) / sum(counts)
            owned = [after[-1][k][1] if after else ([k - prefix] if k >= prefix else []) for k in sources[i]]
            state.append((mean, sorted(sum(owned, []))))
        values = mlp(block, torch.stack([value for value, _ in state])[None])[0]
        state = list(zip(values, (own for _, own in state), strict=True))
        after.append(state)
    return after


def test_tokens_are_those_of_a_loop(both, images):
    _, tower, counts = both
    prefix, state = tower.plain.prefix, tower.stem(images)
    expected = [walk(tower, image, prefix, counts[0] - counts[1]) for image in images]
    for k in range(tower.depth):
        state = tower.block(k, state)
        assert state.tokens.shape[1] == prefix + counts[k + 1]
        for image in range(len(images)):
            values, owned = zip(*expected[image][k], strict=True)
            assert torch.allclose(state.tokens[image], torch.stack(values), atol=1e-4)
            ours = [(state.owners[image] == number).nonzero()[:, 0].tolist() for number in range(len(values))]
            assert ours == list(owned)


def test_no_merging_is_the_tower_itself():
    tower = small_tower("ViT")
    assert with_merging(tower, 0, "vit") is tower
    assert type(build_image_tower(DEMO | {"token_merging": 0})) is type(build_image_tower(DEMO))
    assert load_backbone(DEMO | {"token_merging": 0}).weights_digest == find_source(DEMO).weights_digest


def test_each_patch_has_the_token_that_stands_for_it_in_summaries_and_at_the_end(both, images):
    plain, tower, counts = both
    state = tower.block(1, tower.block(0, tower.stem(images)))
    prefix = tower.plain.prefix
    by_patch = torch.stack(
        [
            torch.stack([tokens[number] for number in own])
            for tokens, own in zip(state.tokens, state.owners, strict=True)
        ]
    )
    spread = torch.cat([state.tokens[:, :prefix], by_patch], 1)
    assert by_patch.shape[1] == counts[0]
    assert torch.equal(tower.summarise(state, (0, 1, 2, 3)), plain.summarise(spread, (0, 1, 2, 3)))
    assert torch.equal(tower.feature_map(state), plain.feature_map(spread))
    assert torch.equal(tower.whole_image(state), plain.whole_image(spread))
    assert torch.equal(tower.finish(state), plain.finish(spread))
    mean = tower.summarise(state, (1,))[:, 1]
    sizes = torch.stack([torch.bincount(own, minlength=state.tokens.shape[1]) for own in state.owners])
    assert torch.allclose(mean, (state.tokens * sizes[..., None]).sum(1) / counts[0], atol=1e-5), "weighted by size"


def test_an_image_is_encoded_alike_in_every_batch(both, images):
    plain, tower, _ = both
    whole = tower.encode(images)
    assert torch.isfinite(whole).all() and not torch.allclose(whole, plain.encode(images), atol=1e-3)
    order = [2, 0, 3, 1]
    assert torch.equal(tower.encode(images[order]), tower.encode(images)[order])
    assert torch.allclose(torch.cat([tower.encode(image[None]) for image in images]), whole, atol=1e-5)


def test_states_are_indexed_split_and_concatenated_by_images(both, images):
    _, tower, _ = both
    state = tower.block(0, tower.stem(images))
    assert isinstance(state, MergedTokens) and len(state) == 4 and state.device == images.device
    again = concatenate(state.tensor_split(3))
    chosen = state[torch.tensor([3, 1])]
    assert torch.equal(again.tokens, state.tokens) and torch.equal(again.owners, state.owners)
    assert torch.equal(chosen.tokens, state.tokens[[3, 1]]) and torch.equal(chosen.owners, state.owners[[3, 1]])
    rest = tower.finish(tower.block(1, chosen))
    assert torch.allclose(rest, tower.finish(tower.block(1, state))[[3, 1]], atol=1e-5)


def test_autocast_merges_mostly_the_same_tokens(both, images):
    _, tower, _ = both
    with torch.autocast("cpu"):
        fast = tower.encode(images)
    assert F.cosine_similarity(fast.float(), tower.encode(images)).min() > 0.9


def test_configuration_and_tower_agree_which_families_merge(monkeypatch):
    monkeypatch.setattr(timm.layers.weight_init, "_trunc_normal_", lambda tensor, *_: tensor)  # slow without values
    seen, merges = {}, set()
    for name in open_clip.list_models():
        cfg = architecture(name)
        if refusal(check_supported, cfg, name):
            continue
        key = str([cfg["embed_dim"], cfg["vision_cfg"]])
        if key not in seen:
            seen[key] = refusal(with_merging, as_tower(on_meta(cfg).eval()), R, name)
        by_config = refusal(check_merging, cfg, R, name)
        assert bool(by_config) == bool(seen[key]), name
        assert by_config is None or f"backbone {name!r}: token_merging 3 cannot be used: " in by_config
        merges |= {name} if by_config is None else set()
    assert {"ViT-B-32", "coca_ViT-B-32", "ViT-L-14-CLIPA", "ViT-B-16-SigLIP2", "MobileCLIP-B", "ViTamin-S"} <= merges
    assert not {"RN50", "EVA02-B-16", "EVA01-g-14", "PE-Core-T-16-384"} & merges


def test_the_pattern_matches_timms_eva_towers_and_no_other():
    eva = {name for name in timm.list_models(module="eva")}
    plain = set(timm.list_models(module="vision_transformer")) | set(timm.list_models(module="vitamin"))
    assert {name for name in eva if not TIMM_EVA.match(name)} == set()
    assert {name for name in plain if TIMM_EVA.match(name)} == set()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            {"model": "ViT-B-16-SigLIP", "token_merging": 99},
            "token_merging 99 is too large; .* the 196 patches; use 98 or",
        ),
        ({"model": "ViT-B-32", "token_merging": -1}, "token_merging is -1; use an integer, 0 to merge no tokens"),
        ({"model": "ViT-B-32", "token_merging": "8"}, "token_merging is '8'; use an integer"),
        ({"model": "ViT-B-32", "token_merging": True}, "token_merging is True; use an integer"),
        (
            {"model": "RN50", "token_merging": 1},
            "a ResNet has no tokens; families that can merge tokens are .* leave tok",
        ),
    ],
)
def test_towers_that_cannot_merge_are_refused_in_one_line(entry, message):
    for build in (build_image_tower, load_backbone):
        with pytest.raises(UserError, match=message) as error:
            build(entry | {"pretrained": "random"})
        assert "\n" not in str(error.value)


def test_custom_blocks_are_refused_by_configuration_and_by_tower():
    cfg = architecture("ViT-S-32")
    cfg = cfg | {"vision_cfg": cfg["vision_cfg"] | {"qk_norm": True, "layers": 2}}
    assert "it has open_clip's custom blocks" in refusal(check_merging, cfg, 1, "own")
    assert "its image tower is a VisionTransformer" in refusal(with_merging, as_tower(on_meta(cfg)), 1, "own")
    gated = small_tower("no class token")
    gated.blocks[1].attn.gate = torch.nn.Linear(16, 16)
    assert "its image tower is a TimmModel" in refusal(with_merging, gated, 1, "own")


def test_encoders_that_merge_have_digests_of_their_own():
    digests = [find_source(DEMO | {"token_merging": r}).weights_digest for r in (0, 1, 2)]
    assert len(set(digests)) == 3
    drawn = {"model": "ViT-S-32", "pretrained": "random"}
    assert len({load_backbone(drawn | {"token_merging": r}).weights_digest for r in (0, 1)}) == 2
