import jsonschema
import pytest
import torch
import yaml
from conftest import DEMO_SOURCE, ROOT, variant
from torch.nn import functional as F

from tgems.backbones.config import model_config
from tgems.config import _fill
from tgems.errors import UserError
from tgems.exits.folders import load_module
from tgems.exits.stage import Training, run_heads
from tgems.exits.train import (
    Pairs,
    draw_bank_examples,
    embed,
    train_bank_gates,
    train_confidence_gates,
    train_heads,
    train_image_gates,
)
from tgems.features.cache import load_features
from tgems.profiling.costs import module_costs, write_costs

SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
RATES = torch.tensor([0.25, 0.5, 0.75, 1.0])


def options(stage, **changes):
    return _fill({}, SCHEMA["properties"][stage]) | changes


HEADS = options("heads", passes=40, batch_size=64, hidden=16, learning_rate=0.01)


def toy_pairs(n=600, seed=0) -> Pairs:
    """Ten concepts; half of the images show theirs at the first exit already, the others only from the third."""
    generator = torch.Generator().manual_seed(seed)
    concept = torch.randint(10, (n,), generator=generator)
    texts = F.normalize(torch.randn(10, 8, generator=generator), dim=-1)
    early = torch.arange(n) % 2 == 0
    noise = torch.randn(n, 3, 8, generator=generator)
    clear = texts[concept][:, None] * 4 + 0.3 * noise
    shown = torch.where(early[:, None, None] | (torch.arange(3) >= 2)[None, :, None], clear, noise)
    flag = torch.where(early, 3.0, -3.0)[:, None, None].expand(n, 3, 2)
    last = F.normalize(texts[concept] + 0.02 * noise[:, 0], dim=-1)
    return Pairs(torch.cat((shown, flag), -1), last, texts, torch.arange(n + 1), concept, 20.0)


@pytest.fixture(scope="module")
def trained():
    pairs = toy_pairs()
    heads, history = train_heads(pairs, RATES, HEADS, 0)
    return pairs, heads, history, embed(heads, pairs.summaries, pairs.last)


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_heads_learn_what_their_exit_shows(trained):
    pairs, _, history, z = trained
    right = (z @ pairs.texts.T).argmax(-1) == pairs.text_of_caption[:, None]
    early = torch.arange(len(pairs)) % 2 == 0
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 2
    assert right[early, 0].float().mean() > 0.95
    assert right[~early, 0].float().mean() < 0.5
    assert right[:, 2].float().mean() > 0.95


@pytest.mark.parametrize("regularizer", ["lagrangian", "penalty"])
def test_image_gates_let_easy_images_leave_and_hold_the_rate(trained, regularizer):
    pairs, _, _, z = trained
    chosen = options("image_gates", regularizer=regularizer, warmup_passes=5, passes=40, batch_size=64, hidden=8)
    gates, history = train_image_gates(pairs, z, RATES, 0.5, chosen, 0)
    logits = gates(pairs.summaries)
    early = torch.arange(len(pairs)) % 2 == 0
    assert logits[early, 0].mean() > logits[~early, 0].mean() + 1
    assert history["rate"].iloc[-1] == pytest.approx(0.5, abs=0.06)


def test_confidence_gates_know_who_is_right(trained):
    pairs, _, _, z = trained
    chosen = options("confidence_gates", passes=20, batch_size=64) | {"hidden": 8}
    gates, _ = train_confidence_gates(pairs, z, chosen, 0)
    logits = gates(pairs.summaries)
    early = torch.arange(len(pairs)) % 2 == 0
    assert (logits[early, 0] > 0).float().mean() > 0.9 and (logits[~early, 0] < 0).float().mean() > 0.7
    assert (logits[:, 2] > 0).float().mean() > 0.9


def test_linear_heads_and_heads_without_text_still_point_at_the_last_exit(trained):
    pairs = trained[0]
    heads, _ = train_heads(pairs, RATES, HEADS | {"hidden": 0, "text": 0, "mixture": 0}, 0)
    assert not hasattr(heads, "up")
    cosine = (heads(pairs.summaries) * pairs.last[:, None]).sum(-1)
    assert cosine[:, 2].mean() > 0.9


def test_bank_gates_know_who_is_right(trained):
    pairs, _, _, z = trained
    gates, history = train_bank_gates(pairs, z, options("bank_gates", passes=20, batch_size=256, hidden=16), 0)
    examples = draw_bank_examples(pairs, z, options("bank_gates"), torch.Generator().manual_seed(5))
    p, _ = gates(pairs.summaries[examples.images], examples.history).sigmoid().unbind(-1)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    brier = ((p[:, 0] - examples.right[:, 0]) ** 2).mean()
    base = examples.right[:, 0].var()
    assert brier < 0.5 * base


def test_banks_hold_their_own_caption_and_no_other_equal_to_it(trained):
    pairs, _, _, z = trained
    chosen = options("bank_gates", bank_batch_size=32, banks_per_image=1)
    examples = draw_bank_examples(pairs, z, chosen, torch.Generator().manual_seed(0))
    sizes = ((examples.history[:, 0, -1] + 0.6) * 5).exp()
    assert sizes.min() >= 2 and sizes.max() <= 32
    assert examples.right_last.mean() > 0.95


def test_same_seed_same_weights_and_another_seed_others(trained):
    pairs, heads, _, _ = trained
    again, _ = train_heads(pairs, RATES, HEADS, 0)
    other, _ = train_heads(pairs, RATES, options("heads", passes=1, batch_size=64, hidden=16), 1)
    assert all(torch.equal(a, b) for a, b in zip(heads.parameters(), again.parameters(), strict=True))
    assert not torch.equal(heads.up.weight, other.up.weight)


def test_fewer_pairs_than_a_batch_still_train(trained):
    few = toy_pairs(5)
    heads, _ = train_heads(few, RATES, options("heads", passes=2, hidden=4), 0)
    assert torch.isfinite(heads(few.summaries)).all()


def test_a_diverging_loss_stops_the_run(trained):
    pairs = toy_pairs(64)
    pairs.summaries[3] = torch.nan
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train_heads(pairs, RATES, options("heads", passes=1, hidden=4), 0)


def test_modules_come_back_from_their_folder_and_know_their_backbone(demo_features, tmp_path):
    write_costs(tmp_path / "macs.json", module_costs(model_config(DEMO_SOURCE), variant(exits=[2, 5])), {})
    chosen, source = options("heads", passes=1, hidden=4), str(demo_features / "scenes")
    run_heads(source, str(tmp_path / "macs.json"), chosen, 0, str(tmp_path / "heads"))
    data = Training.read(source, str(tmp_path / "macs.json"))
    features = data.features
    assert features.summaries.shape[1:] == (3, 128)
    assert torch.equal(features.summaries, load_features(source).summaries[:, [1, 4, 7]])
    heads = load_module(tmp_path / "heads", features.manifest["weights"])
    direct, _ = train_heads(data.pairs, data.rates, chosen, 0)
    assert torch.equal(heads(features.summaries[:, :-1]), direct(features.summaries[:, :-1]))
    with pytest.raises(UserError, match="trained on backbone weights"):
        load_module(tmp_path / "heads", "f00d")


def test_classification_sets_cannot_train(demo_features):
    with pytest.raises(UserError, match="trained on captions"):
        Pairs.of(load_features(demo_features / "digits"))
