"""Find a policy by the word that a configuration uses for it: a name, or `FILE.py:CLASS` for one of your own."""

import importlib.util
import os
import sys
import traceback
from pathlib import Path

from tgems.errors import UserError, first_line
from tgems.policies import confidence, reference, trained_gates
from tgems.policies.interface import Policy
from tgems.provenance import digest_file

POLICIES: dict[str, Policy] = {
    policy.name: policy()
    for policy in (
        *(reference.Full, reference.Fixed, reference.FixedRaw, reference.Hull, reference.HullRaw, reference.Random),
        *(confidence.MaxSoftmax, confidence.Entropy, confidence.Margin, confidence.Patience, confidence.Saturation),
        *(confidence.MaxSoftmaxRaw, confidence.MarginRaw, confidence.SaturationRaw),
        *(trained_gates.LearnedConfidence, trained_gates.LraGate, trained_gates.Router),
        *(trained_gates.TGem, trained_gates.TGemBank),
        *(reference.Oracle, reference.OracleAgree),
    )
}


def find_policies(words: list[str]) -> dict[str, Policy]:
    """Find policies by name, in the configuration's order; `shuffled` is not a policy and is left out.

    Raises:
        UserError: A word names no policy, a file defines no such class, or two policies have the same name.
    """
    found: dict[str, Policy] = {}
    for word in words:
        if word == "shuffled":
            continue
        policy = _load(word) if ":" in word else POLICIES.get(word)
        if policy is None:
            raise UserError(f"config: policies: {word!r} is not a policy; known: {', '.join(POLICIES)}")
        if policy.name in found:
            raise UserError(f"config: policies: {word!r} gives the name {policy.name!r} a second time; rename one")
        found[policy.name] = policy
    return found


def _load(word: str) -> Policy:
    path, _, name = word.rpartition(":")
    if not os.path.isfile(path):
        raise UserError(f"config: policies: {word!r}: no file {path!r}, seen from {Path.cwd()}")
    if not path.endswith(".py"):
        raise UserError(f"config: policies: {word!r}: {path!r} is not a Python file; expected FILE.py:CLASS")
    spec = importlib.util.spec_from_file_location(f"tgems_policy_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"config: policies: {word!r}: {path} cannot be imported; name a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # so that its classes can be pickled
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code can raise anything
        place = error if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"config: policies: {word!r}: {path} cannot be imported ({type(error).__name__} at line "
            f"{place.lineno} of {place.filename}: {first_line(error)}); fix the file"
        ) from error
    policy = getattr(module, name, None)
    if not (isinstance(policy, type) and issubclass(policy, Policy)):
        raise UserError(f"config: policies: {word!r}: {path} defines no policy class {name!r}")
    found = policy()
    found.own_file, found.own_digest = Path(path), digest_file(Path(path))
    return found
