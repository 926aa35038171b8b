"""The public interface: options, copies, precision, and policies of the user's own."""

import copy
import inspect
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image
from runtime.conftest import EXAMPLE, OWN, RUNNABLE
from torch.nn import functional as F
from typer.testing import CliRunner

import tgems
from tgems.cli import app
from tgems.errors import UserError
from tgems.policies.registry import POLICIES, find_policies
from tgems.runtime.model import EarlyExitCLIP


@pytest.mark.parametrize(
    ("call", "options", "nearest"),
    [
        (tgems.create_model_and_transforms, {"calibratoin": "digits"}, "did you mean 'calibration'"),
        (tgems.create_model_and_transforms, {"precision": "fp16"}, "known: folder_or_hub_id, aug_cfg, device"),
        (tgems.from_pretrained, {"jit": True}, "known: folder_or_hub_id, device"),
        (EarlyExitCLIP.from_pretrained, {"maxrate": 0.5}, "did you mean 'max_rate'"),
        (tgems.get_tokenizer, {"backbon": "x"}, "did you mean 'backbone'"),
    ],
)
def test_an_option_that_does_not_exist_is_an_error_that_names_the_nearest(saved, call, options, nearest):
    with pytest.raises(TypeError, match=f"has no option '{next(iter(options))}'; {nearest}"):
        call(saved, **options)


def test_functions_that_load_the_same_have_the_same_options():
    ours = [inspect.signature(call).parameters for call in (tgems.from_pretrained, EarlyExitCLIP.from_pretrained)]
    transforms = inspect.signature(tgems.create_model_and_transforms).parameters
    assert list(ours[0]) == list(ours[1]) == [name for name in transforms if name != "aug_cfg"]
    assert all(p.kind is p.KEYWORD_ONLY for name, p in transforms.items() if name != "folder_or_hub_id")
    assert set(tgems.__all__) <= set(dir(tgems)) | {"EarlyExitCLIP"} and tgems.EarlyExitCLIP is EarlyExitCLIP


def ready(model):
    """The model with a text bank, if it needs one."""
    if model.early_exit.policy.needs_bank:
        model.set_text_bank(model.encode_text(model.tokenizer(["a one", "a two", "a three"])))
    return model


@pytest.mark.parametrize("policy", [*RUNNABLE, OWN])
def test_a_copy_has_weights_of_its_own(make, known, policy):
    model, images = ready(make(policy)), known.images[:16]
    before = model.encode_image(images, return_exits=True)
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.zero_()
    after = model.encode_image(images, return_exits=True)
    assert torch.equal(before.embeddings, after.embeddings) and torch.equal(before.exits, after.exits)
    assert not twin.encode_image(images).nan_to_num().any()


@pytest.mark.parametrize("policy", ["tgem", "margin", "saturation_raw", OWN])
def test_a_model_can_be_pickled_after_use(make, known, policy):
    model, images = ready(make(policy)), known.images[:16]
    expected = model.encode_image(images, return_exits=True)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    got = torch.load(buffer, weights_only=False).encode_image(images, return_exits=True)
    assert torch.equal(got.embeddings, expected.embeddings) and torch.equal(got.exits, expected.exits)


@pytest.mark.parametrize("policy", ["tgem", "tgem_bank", "patience", "saturation", "margin_raw"])
def test_parameters_are_used_as_they_are_now(make, known, policy):
    """Loading a state, or casting, after an image was encoded takes effect."""
    model, images = ready(make(policy)), known.images[:16]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model.encode_image(images, return_exits=True)
    for module in (model.heads, model.gates):
        for parameter in module.parameters() if module is not None else ():
            parameter.add_(1)
    model.load_state_dict(state)
    again = model.encode_image(images, return_exits=True)
    assert torch.equal(again.embeddings, expected.embeddings) and torch.equal(again.exits, expected.exits)
    low = copy.deepcopy(model).bfloat16().encode_image(images.bfloat16(), return_exits=True)
    same = low.exits == expected.exits
    assert low.embeddings.dtype == torch.float32 and same.float().mean() > 0.5
    assert F.cosine_similarity(low.embeddings, expected.embeddings)[same].min() > 0.98
    half = copy.deepcopy(model).half()
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    if model.heads is not None:
        assert {"heads.norm.weight", "model.logit_scale"} <= state.keys()


def test_a_policy_of_ones_own_is_run_only_if_its_file_is_trusted(make, own_policy, known, tmp_path, demo_backbone):
    model = ready(make(OWN))
    model.save_pretrained(tmp_path / "g")
    with pytest.raises(UserError, match=r"the class 'my_policies.py:ConfirmedConfidence'.*trust_policy_file=FILE"):
        tgems.from_pretrained(tmp_path / "g")
    path = own_policy.rpartition(":")[0]
    again = ready(EarlyExitCLIP.from_pretrained(tmp_path / "g", backbone=demo_backbone, trust_policy_file=path))
    first, second = (m.encode_image(known.images, return_exits=True) for m in (model, again))
    assert torch.equal(first.exits, second.exits) and torch.equal(first.embeddings, second.embeddings)
    other = shutil.copy(path, tmp_path / "my_policies.py")
    with open(other, "a") as file:
        file.write("raise SystemExit('this file was run')\n")
    with pytest.raises(UserError, match="not the file that .* was exported with"):
        tgems.from_pretrained(tmp_path / "g", trust_policy_file=other)
    with pytest.raises(UserError, match="cannot be read"):
        tgems.from_pretrained(tmp_path / "g", trust_policy_file=tmp_path / "none.py")
    make("tgem").save_pretrained(tmp_path / "plain")
    with pytest.raises(UserError, match="policy 'tgem' is tgems' own; leave trust_policy_file out"):
        tgems.from_pretrained(tmp_path / "plain", trust_policy_file=path)


def test_the_page_on_policies_ends_with_an_encoded_image(results, own_policy, known, tmp_path, monkeypatch):
    """The command and the code of docs/adding-a-policy.md, unchanged except for the backbone's name."""
    page = (ROOT / "docs/adding-a-policy.md").read_text()
    monkeypatch.chdir(tmp_path)
    shutil.copy(own_policy.rpartition(":")[0], "my_policies.py")
    Path("results").symlink_to(results)
    command = re.search(r"```bash\n(tgems export .*?)\n```", page, re.S)[1].replace("demo-vit-8", "demo")
    run = CliRunner().invoke(app, shlex.split(command)[1:])
    assert run.exit_code == 0, run.output
    image = Image.open(io.BytesIO(known.samples[0].image)).convert("RGB")
    found = {"image": image}
    exec(page.split("```python\n")[-1].split("```")[0], found)
    assert found["embedding"].shape == (1, 64) and 0 <= found["exit_index"].item() < 8


def test_info_takes_an_id_on_the_hub(saved, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: {"owner/name": saved}[name])
    run = CliRunner().invoke(app, ["info", "owner/name"])
    assert run.exit_code == 0 and "demo-vit-8" in run.output


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    needs_bank = True", "    pass", "reads view.bank; declare that by 'needs_bank = True'"),
        ("seen = view.bank", "seen = view.bank; view.gate", "reads view.gate; declare that by 'gates = KIND'"),
    ],
)
def test_a_policy_declares_what_it_reads(known, tmp_path, old, new, message):
    path = tmp_path / "own.py"
    path.write_text(EXAMPLE.replace(old, new))
    (policy,) = find_policies([f"{path}:ConfirmedConfidence"]).values()
    with pytest.raises(UserError, match=message):
        policy.costs(known.split.costs, 5)


def test_a_policy_cannot_read_more_for_some_images(known, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "from tgems.policies.interface import ThresholdPolicy\n"
        "class Sly(ThresholdPolicy):\n"
        "    name, needs_bank = 'sly', True\n"
        "    def score(self, view):\n"
        "        return view.summary[:, 0] if len(view) == 2 else view.bank.first\n"
    )
    (policy,) = find_policies([f"{path}:Sly"]).values()
    with pytest.raises(
        UserError, match="reads view.embedding at exit 1 for some images only, so that its cost is unknown"
    ):
        policy.scores(known.split.outputs, 0.6)


def test_costs_of_a_policy_of_ones_own_follow_from_what_it_reads(known, own_policy):
    (own,) = find_policies([own_policy]).values()
    expected = POLICIES["patience"].costs(known.split.costs, 7)
    assert own.costs(known.split.costs, 7).tolist() == expected.tolist()
