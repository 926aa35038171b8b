import pytest
import torch
from conftest import DEMO, options, variant
from toy import toy_pairs

from tgems.backbones.references import model_config
from tgems.config.training import ConfidenceTraining
from tgems.costs.exit_costs import ExitCosts, module_costs
from tgems.costs.saved_costs import write_costs
from tgems.errors import UserError
from tgems.exits.bank_gate_training import draw_bank_examples, train_bank_gates, worth_of_going_on
from tgems.exits.head_training import embed, train_confidence_gates, train_heads
from tgems.exits.image_gate_training import hard_rate, hit_probabilities, train_image_gates, train_lookahead
from tgems.exits.saved_modules import load_module
from tgems.exits.training_jobs import Training, run_heads
from tgems.exits.training_pairs import Pairs
from tgems.features.cache import load_features

RATES = torch.tensor([0.25, 0.5, 0.75, 1.0])


HEADS = options("heads", passes=40, batch_size=64, hidden=16, learning_rate=0.01, weight_decay=0.05)


@pytest.fixture(scope="module")
def trained():
    pairs = toy_pairs()
    heads, history = train_heads(pairs, RATES, HEADS, 0)
    return pairs, heads, history, embed(heads, pairs.summaries, pairs.last)


def test_heads_learn_what_their_exit_shows(trained):
    pairs, _, history, z = trained
    right = (z @ pairs.texts.T).argmax(-1) == pairs.text_of_caption[:, None]
    early = torch.arange(len(pairs)) % 2 == 0
    assert history["loss"].iloc[-1] < history["loss"].iloc[0] / 2
    assert right[early, 0].float().mean() > 0.95
    assert right[~early, 0].float().mean() < 0.5
    assert right[:, 2].float().mean() > 0.95


GATES = {"batch_size": 64, "hidden": 8, "bank_size": 10, "passes": 20}
GATES |= {"foresight_passes": 20, "foresight_learning_rate": 0.006}


@pytest.fixture(scope="module")
def foresight(trained):
    pairs, _, _, z = trained
    right = hit_probabilities(pairs, z, 10, torch.Generator().manual_seed(0))
    return right, train_lookahead(pairs, right, RATES, options("image_gates", **GATES), 0)[0]


def test_hit_probabilities_are_those_of_random_banks(trained):
    pairs, _, _, z = trained
    right = hit_probabilities(pairs, z, 10, torch.Generator().manual_seed(0))
    early = torch.arange(len(pairs)) % 2 == 0
    assert right[early, 0].mean() > 0.95 and right[:, 3].mean() > 0.95
    assert 0.02 < right[~early, 0].mean() < 0.5


def test_lookahead_gates_predict_which_images_are_right_at_which_exits(trained, foresight):
    pairs, (_, gates) = trained[0], foresight
    p = gates.predict_correctness(pairs.summaries).sigmoid()
    early = torch.arange(len(pairs)) % 2 == 0
    assert p[early, 0, 0].mean() > 0.8 and p[~early, 0, 0].mean() < 0.4
    assert p[~early, 0, 2].mean() > 0.8, "what comes is foreseen from the first exit"


@pytest.mark.parametrize("regularizer", ["lagrangian", "penalty"])
def test_image_gates_let_easy_images_leave_and_hold_the_rate(trained, foresight, regularizer):
    pairs, (right, start) = trained[0], foresight
    before = {k: v.clone() for k, v in start.state_dict().items()}
    chosen = options("image_gates", regularizer=regularizer, **GATES)
    gates, history = train_image_gates(pairs, right, RATES, start, 0.5, chosen, 0)
    logits = gates(pairs.summaries)
    early = torch.arange(len(pairs)) % 2 == 0
    assert logits[early, 0].mean() > logits[~early, 0].mean() + 1
    assert history["rate"].dropna().iloc[-1] == pytest.approx(0.5, abs=0.08)
    assert history["rate_at_zero"].iloc[-1] == pytest.approx(hard_rate(gates, pairs.summaries, RATES))
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items()), "shared by all targets"


def test_gates_without_a_pass_are_their_foresight_at_the_price_of_the_target(trained, foresight):
    pairs, (right, start) = trained[0], foresight
    chosen = options("image_gates", **GATES | {"passes": 0})
    gates, history = train_image_gates(pairs, right, RATES, start, 0.6, chosen, 0)
    assert torch.equal(gates.predict_correctness(pairs.summaries), start.predict_correctness(pairs.summaries))
    assert 0.5 <= history["rate_at_zero"].iloc[-1] <= 0.6 + 1e-6


def test_confidence_gates_predict_which_images_are_right(trained):
    pairs, _, _, z = trained
    chosen = ConfidenceTraining(hidden=8, passes=20, batch_size=64)
    gates, _ = train_confidence_gates(pairs, z, chosen, 0)
    logits = gates(pairs.summaries)
    early = torch.arange(len(pairs)) % 2 == 0
    assert (logits[early, 0] > 0).float().mean() > 0.9 and (logits[~early, 0] < 0).float().mean() > 0.7
    assert (logits[:, 2] > 0).float().mean() > 0.9


def test_linear_heads_and_heads_without_text_still_point_at_the_last_exit(trained):
    pairs = trained[0]
    heads, _ = train_heads(pairs, RATES, HEADS.model_copy(update={"hidden": 0, "text": 0, "similarity": 0}), 0)
    assert not hasattr(heads, "up")
    cosine = (heads(pairs.summaries) * pairs.last[:, None]).sum(-1)
    assert cosine[:, 2].mean() > 0.9


GATE_COSTS = {kind: (2,) * 3 for kind in ("image", "bank", "confidence", "variance", "router")}
COSTS = ExitCosts((1, 2, 3, 4), (250, 500, 750, 1000), (10,) * 3, GATE_COSTS, 5, 8, (4,) * 3, 10)


def test_bank_gates_predict_which_images_are_right(trained):
    pairs, _, _, z = trained
    chosen = options("bank_gates", passes=20, batch_size=256, hidden=16)
    gates, history = train_bank_gates(pairs, z, COSTS, chosen, 0)
    examples = draw_bank_examples(pairs, z, chosen, torch.Generator().manual_seed(5))
    hidden = gates.embed(pairs.summaries[examples.images], examples.features)
    p = gates.right(hidden).sigmoid()
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    brier = ((p[:, 0] - examples.right[:, 0]) ** 2).mean()
    assert brier < 0.5 * examples.right[:, 0].var()
    expensive, cheap = (
        gates(pairs.summaries[examples.images], examples.features, torch.full((len(p),), x)) for x in (5, 0.02)
    )
    assert (expensive > 0).float().mean() > (cheap > 0).float().mean() + 0.2, "an expensive encoder is left early"


def test_worth_of_going_on_equals_a_calculation_by_hand():
    """An exit that is looked at costs its module, .02; going on costs the bank product at the exit, .01."""
    right, stay, last = torch.tensor([[0.1, 0.6, 0.2]]), torch.tensor([[0.0, 0.5, 0.7]]), torch.tensor([0.9])
    encoder, price = torch.tensor([0.25, 0.5, 0.75, 1.0]), torch.tensor([0.4])
    parts = right, stay, last, price, encoder, torch.full((3,), 0.02), torch.tensor([0.01])
    every = worth_of_going_on(*parts, torch.tensor([True] * 3))
    expected = [0.6 - 0.4 * 0.28, 0.7 - 0.4 * 0.28, 0.9 - 0.4 * 0.26]
    assert every[0].tolist() == pytest.approx(expected)
    some = worth_of_going_on(*parts, torch.tensor([True, False, False]))
    assert some[0].tolist() == pytest.approx([0.9 - 0.4 * 0.76, 0.9 - 0.4 * 0.51, 0.9 - 0.4 * 0.26])


def test_no_image_is_judged_among_a_few_left_over(trained):
    """Embeddings opposite to their own captions are never right, not even that of an image that is one too many."""
    pairs, _, _, z = trained
    wrong = -pairs.texts[pairs.longest][:, None].expand_as(z)
    right = hit_probabilities(pairs, wrong, len(pairs) - 1, torch.Generator().manual_seed(0))
    assert right.max() < 0.01


def test_no_caption_of_the_image_stands_against_it(trained):
    pairs, _, _, z = trained
    chosen = options("bank_gates", bank_batch_size=32, banks_per_image=1)
    examples = draw_bank_examples(pairs, z, chosen, torch.Generator().manual_seed(0))
    assert examples.sizes.min() >= 2 and examples.sizes.max() <= 10
    assert examples.right[:, -1].mean() > 0.95
    owned = pairs.owns(torch.arange(5), torch.tensor([3, 7]))
    assert owned.tolist() == [[c == 3, c == 7] for c in pairs.text_of_caption[:5].tolist()]


def test_equal_seeds_give_equal_weights_and_other_seeds_others(trained):
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
    with pytest.raises(UserError, match="lower the learning rate"):
        train_heads(pairs, RATES, options("heads", passes=1, hidden=4, whiten=False), 0)


def test_modules_come_back_from_their_folder_and_know_their_backbone(demo_features, tmp_path):
    write_costs(tmp_path / "macs.json", module_costs(model_config(DEMO), variant(exits=[2, 5])), {})
    chosen, source = options("heads", passes=1, hidden=4), str(demo_features / "scenes")
    run_heads(source, str(tmp_path / "macs.json"), chosen, 0, str(tmp_path / "heads"))
    data = Training.read(source, str(tmp_path / "macs.json"))
    features = data.features
    assert features.summaries.shape[1:] == (2, 5 * 64)
    assert torch.equal(features.summaries[:], load_features(source).summaries[:][:, [1, 4]])
    heads = load_module(tmp_path / "heads", features.manifest["weights"])
    direct, _ = train_heads(data.pairs, data.rates, chosen, 0)
    assert torch.equal(heads(features.summaries[:]), direct(features.summaries[:]))
    with pytest.raises(UserError, match="trained on backbone weights"):
        load_module(tmp_path / "heads", "f00d")


def test_classification_sets_cannot_train(demo_features):
    with pytest.raises(UserError, match="trained on captions"):
        Pairs.of(load_features(demo_features / "digits"))
