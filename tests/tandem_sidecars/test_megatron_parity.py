"""Trainer and transformers agree about a policy: the check that catches a wrong conversion of any weight."""

from pathlib import Path

import pytest
import torch

from tandem_api.engine import Sample
from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig, read_policy_config
from tandem_checkpoint.architectures.table import NamedRule, Split
from tandem_checkpoint.process.commands import RankAnswer, Refused, Trained
from tandem_sidecars.megatron.weights import from_megatron
from tests.tandem_checkpoint.jobs import job_config
from tests.tandem_sidecars.forge import Forge
from tests.tandem_sidecars.policies import changed_policy, samples_of
from tests.tandem_sidecars.training import LIMIT, train, weights_in

pytestmark = pytest.mark.megatron


def compared(
    forge: Forge, folder: Path, policy: Path, samples: tuple[Sample, ...], temperature: float = 1.0
) -> RankAnswer:
    """Have a trainer that holds `policy` train on samples whose log-probabilities transformers computed."""
    rank = forge.start(job_config(policy, temperature=temperature), folder)
    rank.send(train(samples))
    return rank.receive()


def with_rules_undone(policy: Path, folder: Path, split: Split, name: str) -> Path:
    """Return the policy that a converter without a rule would make: Megatron's parameter as the tensors end to end."""
    config = read_policy_config(policy)
    tensors = weights_in(policy)
    wrong: dict[str, torch.Tensor] = {}
    for rule in architecture_of(config.architecture).rules(config):
        if rule.split is split and rule.megatron.endswith(name):
            wrong |= _end_to_end(rule, tensors, config)
    return changed_policy(policy, folder, wrong)


def _end_to_end(rule: NamedRule, tensors: dict[str, torch.Tensor], config: PolicyConfig) -> dict[str, torch.Tensor]:
    names = [part for part, _ in rule.tensors(config)]
    blocks = [tensors[part] for part in names]
    fused = torch.cat(blocks if rule.split is Split.QKV else blocks[::-1])
    return dict(zip(names, from_megatron(rule, fused, config), strict=True))


def test_untied_embeddings(forge: Forge, untied_policy: Path, tmp_path: Path) -> None:
    answer = compared(forge, tmp_path, untied_policy, samples_of(untied_policy))

    assert isinstance(answer, Trained), answer
    assert 0 < answer.max_abs_logprob_difference <= LIMIT


def test_tied_embeddings(forge: Forge, tied_policy: Path, tmp_path: Path) -> None:
    answer = compared(forge, tmp_path, tied_policy, samples_of(tied_policy))

    assert isinstance(answer, Trained), answer
    assert 0 < answer.max_abs_logprob_difference <= LIMIT


def test_log_probabilities_are_at_the_sampling_temperature(forge: Forge, untied_policy: Path, tmp_path: Path) -> None:
    samples = samples_of(untied_policy, temperature=0.7)

    answer = compared(forge, tmp_path, untied_policy, samples, temperature=0.7)

    assert isinstance(answer, Trained), answer
    assert answer.max_abs_logprob_difference <= LIMIT


@pytest.mark.parametrize(
    ("split", "name"),
    [(Split.QKV, "linear_qkv.weight"), (Split.QKV, "linear_qkv.bias"), (Split.HALVES, "linear_fc1.weight")],
    ids=["query key and value as three blocks", "their biases as three blocks", "gate and up swapped"],
)
def test_a_wrong_order_is_caught(forge: Forge, untied_policy: Path, tmp_path: Path, split: Split, name: str) -> None:
    wrong = with_rules_undone(untied_policy, tmp_path / "wrong", split, name)

    answer = compared(forge, tmp_path, wrong, samples_of(untied_policy))

    assert isinstance(answer, Refused), answer


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.self_attn.v_proj.bias", "lm_head.weight"])
def test_a_weight_left_at_its_default_is_caught(forge: Forge, untied_policy: Path, tmp_path: Path, name: str) -> None:
    plain = torch.ones_like if "norm" in name else torch.zeros_like
    tensor = weights_in(untied_policy)[name]
    wrong = changed_policy(untied_policy, tmp_path / "wrong", {name: plain(tensor)})

    answer = compared(forge, tmp_path, wrong, samples_of(untied_policy))

    assert isinstance(answer, Refused), answer
