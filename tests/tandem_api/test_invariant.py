"""Relations between fields: one message for two judges."""

from decimal import Decimal
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tandem_api.crd import structural_schema
from tandem_api.invariant import VALIDATIONS, Guarded, Invariant, Transition
from tandem_api.job import RLJobSpec
from tandem_api.job.pods import HybridSpec, RolloutParallelism, TrainerParallelism
from tandem_api.job.policy import HuggingFaceSource, ModelSource
from tandem_api.job.relations import ELASTIC_SERVERS, SERVERS, TRAINER_RANKS
from tandem_api.job.text import FACTORS, amount
from tandem_api.problems import InvalidJob, parse_job
from tests.tandem_api.manifests import COMMIT, manifest


class Span(Guarded):
    """Two numbers."""

    low: int
    high: int

    invariants = (
        Invariant("low", "self.low <= self.high", lambda span: span.low <= span.high, "is above high; lower it"),
        Invariant("", "self.high < 10", lambda span: span.high < 10, "is too wide; narrow it"),
    )
    transitions = (Transition("low", "self.low == oldSelf.low", "may not change; keep it"),)


def spec_with(
    *, gpus_per_pod: int = 8, tensor: int = 1, pipeline: int = 1, server_tensor: Literal[1, 2, 4, 8] = 1
) -> RLJobSpec:
    """Return a spec, also with splits that are no part of a pod."""
    spec = parse_job(manifest("{}")).spec
    ranks = TrainerParallelism(tensor=tensor, pipeline=pipeline)
    servers = RolloutParallelism(tensor=server_tensor)
    return spec.model_copy(
        update={
            "hybrid": HybridSpec(gpus_per_pod=gpus_per_pod),
            "trainer": spec.trainer.model_copy(update={"parallelism": ranks}),
            "rollout": spec.rollout.model_copy(update={"parallelism": servers}),
        }
    )


def test_an_object_that_keeps_its_relations_is_made() -> None:
    assert Span(low=1, high=1).low == 1


def test_all_relations_that_are_broken_are_told_at_once() -> None:
    with pytest.raises(ValidationError, match="low: is above high; lower it, : is too wide; narrow it"):
        Span(low=12, high=11)


def test_relations_go_into_the_schema_in_their_other_language() -> None:
    assert structural_schema(Span)[VALIDATIONS] == [
        {"rule": "self.low <= self.high", "message": "is above high; lower it", "fieldPath": ".low"},
        {"rule": "self.high < 10", "message": "is too wide; narrow it"},
        {"rule": "self.low == oldSelf.low", "message": "may not change; keep it", "fieldPath": ".low"},
    ]


def test_two_broken_relations_of_a_job_are_two_lines() -> None:
    document = manifest("hybrid: {gpu: {sharing: None, selectors: ['true'], deviceClassName: mig}}")

    with pytest.raises(InvalidJob) as refusal:
        parse_job(document)

    assert [line.split(":")[0] for line in refusal.value.problems] == [
        "spec.hybrid.gpu.deviceClassName",
        "spec.hybrid.gpu.selectors",
    ]


@pytest.mark.parametrize(
    ("spec", "kept"),
    [
        (spec_with(gpus_per_pod=8, tensor=2, pipeline=2), True),
        (spec_with(gpus_per_pod=6, tensor=2, pipeline=2), False),
        (spec_with(gpus_per_pod=6, tensor=3, pipeline=2), True),
    ],
)
def test_the_ranks_of_a_pod_are_whole_copies_of_the_model(spec: RLJobSpec, kept: bool) -> None:
    assert TRAINER_RANKS.holds(spec) is kept


@pytest.mark.parametrize(("gpus_per_pod", "kept"), [(4, True), (8, True), (6, False)])
def test_the_devices_of_a_pod_are_whole_servers(gpus_per_pod: int, kept: bool) -> None:
    spec = spec_with(gpus_per_pod=gpus_per_pod, server_tensor=4)

    assert SERVERS.holds(spec) is kept
    assert ELASTIC_SERVERS.holds(spec) is True


def test_a_commit_is_a_folder_of_the_hub_cache() -> None:
    source = ModelSource(hugging_face=HuggingFaceSource(repo="Qwen/Qwen3-8B", revision=COMMIT))

    assert source.path == f"/models/hub/models--Qwen--Qwen3-8B/snapshots/{COMMIT}"


def test_either_kind_of_policy_parses_again_from_what_it_is_written_as() -> None:
    job = parse_job(manifest(f"policy: {{model: {{huggingFace: {{repo: a/b, revision: {COMMIT}}}}}}}"))

    assert parse_job(yaml.safe_load(yaml.safe_dump(job.model_dump(mode="json")))) == job


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", "0.5"), ("16", "16"), ("1.5k", "1500"), ("2Ki", "2048"), ("1G", "1000000000"), ("1Gi", "1073741824")],
)
def test_a_quantity_is_the_number_that_kubernetes_reads(text: str, number: str) -> None:
    assert amount(text) == Decimal(number)


@given(st.integers(0, 10**6), st.sampled_from(sorted(FACTORS)))
def test_every_suffix_is_its_factor(count: int, suffix: str) -> None:
    assert amount(f"{count}{suffix}") == count * FACTORS[suffix]
