"""Early exit at run time takes the exits and gives the embeddings that the evaluation computes from cached features."""

import pytest
import torch
from runtime.conftest import OWN, RUNNABLE
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary
from toy import costs_of_sizes

from tgems.data.webdataset import SplitFiles
from tgems.exits.modules import ExitHeads
from tgems.features.extract import extract_features
from tgems.features.shards import Encoding
from tgems.policies.interface import ThresholdPolicy
from tgems.runtime.engine import encode_early
from tgems.runtime.live_view import ExitDecider

TOO_CLOSE = 1e-4


def with_bank(model, known):
    """The model as the harness used it on a data set."""
    if known.dataset in model.early_exit.calibrations:
        model.use_calibration(known.dataset)
    if model.early_exit.policy.needs_bank:
        model.set_text_bank(known.split.features.texts)
    return model


def in_batches(model, images, size):
    """Encode a data set batch by batch."""
    parts = [model.encode_image(batch, return_exits=True) for batch in images.split(size)]
    return torch.cat([p.embeddings for p in parts]), torch.cat([p.exits for p in parts])


def sure(known, policy):
    """Images no score of which is close to the threshold."""
    point = known.points[policy]
    if policy.startswith("fixed"):
        return torch.ones(len(known.images), dtype=torch.bool)
    scores = known.policies[policy].scores(known.splits[policy].outputs, point.rate_target)
    return ((scores - point.at_exits(scores.shape[1])).abs() > TOO_CLOSE).all(1)


@pytest.mark.parametrize("policy", [*RUNNABLE, OWN])
def test_exits_and_embeddings_are_the_harness_s(make, known, policy):
    model, split = with_bank(make(policy), known), known.splits[policy]
    expected = known.policies[policy].decide(split.outputs, known.points[policy])
    one_exit = policy.startswith("fixed") or policy in ("patience", "router", "saturation", "saturation_raw", OWN)
    assert one_exit or len(expected.unique()) > 1, "images leave at different exits"
    rows, certain = torch.arange(len(expected)), sure(known, policy)
    mixed = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    few, whole = mixed[:20], len(rows)
    for size, chunk, order in ((1, None, few), (7, 3, rows), (64, 8, mixed), (whole, 1, few), (whole, None, mixed)):
        model.chunk = chunk
        embeddings, exits = in_batches(model, known.images[order], size)
        agree = exits == expected[order]
        assert agree[certain[order]].all() and (~agree).float().mean() < 1e-3
        theirs = split.embeddings[order, expected[order]]
        assert (embeddings - theirs)[agree].abs().max() < 1e-5
        assert embeddings.dtype == torch.float32 and exits.dtype == torch.int64


def test_the_last_exit_is_the_encoder_s_own(make, known):
    model = with_bank(make("tgem"), known)
    model.thresholds = dict.fromkeys(range(7), float("inf"))
    whole = model.model.encode_image(known.images, normalize=True)
    model.chunk = len(known.images)
    assert torch.equal(model.encode_image(known.images), whole)


def test_half_precision_caches_change_little(split_of, make, known, demo_backbone, demo_data, tmp_path, capsys):
    task = "zeroshot_classification" if known.dataset == "digits" else "zeroshot_retrieval"
    files = SplitFiles.of_folder(demo_data / known.dataset / "test", task)
    extract_features(demo_backbone, files, tmp_path / "half", Encoding(dtype="float16", batch_size=32))
    split, _ = split_of(tmp_path / "half")
    expected = known.policies["tgem"].decide(split.outputs, known.points["tgem"])
    embeddings, exits = in_batches(with_bank(make("tgem"), known), known.images, 64)
    agreement = (exits == expected).float().mean().item()
    with capsys.disabled():
        print(f"\n{known.dataset}: {agreement:.4f} of exits agree with those of float16 caches")
    rows = torch.arange(len(exits))
    ours = (split.truth.image_ranks(embeddings[:, None])[:, 0] < 1).float().mean()
    theirs = (split.ranks[rows, expected] < 1).float().mean()
    assert agreement >= 0.95 and (ours - theirs).abs() <= 0.03


def test_autocast_leaves_heads_and_gates_alone(make, known):
    model = with_bank(make("margin"), known)
    plain, exits = in_batches(model, known.images, 64)
    seen = []
    embed = model.heads.at_exit

    def spy(exit_index, summaries):
        z = embed(exit_index, summaries)
        seen.append((summaries.dtype, z.dtype))
        return z

    model.heads.at_exit = spy
    with torch.autocast("cpu"):
        fast, fast_exits = in_batches(model, known.images, 64)
    del model.heads.at_exit
    assert seen and set(seen) == {(torch.float32, torch.float32)} and fast.dtype == torch.float32
    same = exits == fast_exits
    assert same.float().mean() > 0.9 and F.cosine_similarity(plain, fast)[same].min() > 0.99


@pytest.mark.parametrize("policy", ["tgem", "margin"])
def test_reduced_precision_models_run(make, known, policy):
    model = with_bank(make(policy), known)
    exits = model.encode_image(known.images, return_exits=True).exits
    try:
        model.to(torch.bfloat16)
        low = model.encode_image(known.images.bfloat16(), return_exits=True)
    finally:
        model.to(torch.float32)
    assert low.embeddings.dtype == torch.float32 and (low.exits == exits).float().mean() > 0.7


class Recorder:
    """Batch sizes that every block saw."""

    def __init__(self, tower):
        self.seen = {k: [] for k in range(tower.depth)}
        for k, block in enumerate(tower.blocks):
            block.register_forward_pre_hook(lambda m, args, k=k: self.seen[k].append(len(args[0])))


def test_blocks_run_only_for_images_that_have_not_left(make, known):
    model = with_bank(make("tgem"), known)
    model.chunk = 16
    recorder = Recorder(model.tower)
    exits = model.encode_image(known.images, return_exits=True).exits
    blocks = torch.tensor(model.early_exit.costs.blocks)[exits]
    for k, sizes in recorder.seen.items():
        left = int((blocks > k).sum())
        assert sum(sizes) == left and len(sizes) <= -(-left // 16), "chunks are packed anew"
        assert all(size <= 16 for size in sizes)


def test_no_block_runs_after_the_last_image_has_left(make, known):
    model = make("fixed")
    recorder = Recorder(model.tower)
    finish = model.tower.finish
    model.tower.finish = lambda state: pytest.fail("the encoder's end was reached")
    try:
        model.encode_image(known.images)
    finally:
        model.tower.finish = finish
    assert [sum(sizes) for sizes in recorder.seen.values()] == [len(known.images)] * 3 + [0] * 5


@pytest.mark.parametrize("policy", [*RUNNABLE, OWN])
def test_batches_of_no_and_one_image_are_encoded(make, known, policy):
    model = with_bank(make(policy), known)
    none = model.encode_image(known.images[:0], return_exits=True)
    assert none.embeddings.shape == (0, 64) and none.exits.shape == (0,) and none.exits.dtype == torch.int64
    assert model.encode_image(known.images[:1]).shape == (1, 64)


class Alive(TorchDispatchMode):
    """Bytes of tensors alive at once, the largest."""

    def __init__(self):
        super().__init__()
        self.storages, self.largest = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self.storages[tensor] = tensor.untyped_storage()
        sizes = {s.data_ptr(): s.nbytes() for s in self.storages.values()}
        self.largest = max(self.largest, sum(sizes.values()))
        return made


def most_alive(call):
    """Peak of what a call keeps alive."""
    with Alive() as alive, torch.no_grad():
        call()
    return alive.largest


@pytest.mark.parametrize("chunk", [8, 48])
@pytest.mark.parametrize("policy", ["tgem", "margin"])
def test_memory_stays_below_the_full_encoder_s(make, known, policy, chunk):
    model = with_bank(make(policy), known)
    model.chunk = chunk
    images = known.images[:48]
    model.thresholds = dict.fromkeys(range(7), float("inf"))  # no image leaves: the worst case
    assert most_alive(lambda: model.encode_image(images)) <= most_alive(lambda: model.visual(images))


class EveryOther(ThresholdPolicy):
    """Every second image leaves at each exit, by its place among those that are left."""

    name = "every_other"

    def score(self, view):
        return torch.arange(len(view)).remainder(2).float()


@pytest.mark.parametrize("grid", [0, 1, 3])
def test_exits_may_differ_in_width(grid):
    from tgems.backbones.load import build_image_tower
    from tgems.features.encode import encode_images

    torch.manual_seed(0)
    tower = build_image_tower({"model": "RN50", "pretrained": "random"})
    for p in tower.visual.parameters():
        nn.init.normal_(p, std=0.02)
    for name, buffer in tower.visual.named_buffers():
        buffer.fill_(1.0 if name.endswith("var") else 0.0)
    images, blocks = torch.randn(3, 3, *tower.image_size), (1, 2, 3, 4)
    widths = [tower.widths[b - 1] for b in blocks[:-1]]
    dim = max(widths) * (1 + grid**2)
    heads = ExitHeads(3, dim, 4, 8, widths).eval().requires_grad_(False)
    nn.init.normal_(heads.down.weight)
    costs = costs_of_sizes(widths, dim, 8)
    decider = ExitDecider(EveryOther(), costs, heads, None, {0: 0.5, 1: 0.5}, (0, 1))
    tower.finish = lambda state: state.mean((2, 3))[:, :8]
    theirs = heads(encode_images(tower, images, blocks, [grid]).summaries)
    got = encode_early(tower, decider, images, chunk=3)
    assert got.exits.tolist() == [3, 0, 1]
    assert torch.allclose(got.embeddings[[1, 2]], theirs[[1, 2], [0, 1]], atol=1e-5)
