"""A wrong RLJob is told everything that is wrong with it, at once and in one line each."""

import copy
import math
from pathlib import Path

import pytest
import yaml

from tandem_api.job import RLJob
from tandem_api.problems import InvalidJob, parse_job
from tests.tandem_api.manifests import BASE


def problems_of(document: object) -> tuple[str, ...]:
    """Return the lines that a document is refused with."""
    with pytest.raises(InvalidJob) as caught:
        parse_job(document)
    return caught.value.problems


def valid_with_spec(text: str) -> dict[str, object]:
    """Return the valid document with fields of its spec replaced by those of a YAML mapping."""
    document = yaml.safe_load(BASE)
    document["spec"] |= yaml.safe_load(text)
    return dict(document)


def test_three_lines_of_spec_are_a_job() -> None:
    job = parse_job(yaml.safe_load(BASE))

    assert isinstance(job, RLJob)
    assert job.metadata.name == "math-8b"
    assert job.spec.recipe.iterations == 500


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("rollout: {parallelism: {tensor: 3}}", "spec.rollout.parallelism.tensor: is 3; use 1, 2, 4 or 8"),
        (
            "rollout: {parallelism: {tensor: 2.0}}",
            "spec.rollout.parallelism.tensor: is 2.0, wanted an integer; write 2",
        ),
        ("hybrid: {replicas: 2.0}", "spec.hybrid.replicas: is 2.0, wanted an integer; write 2"),
        ("recpie: {iterations: 5}", "spec.recpie: unknown field; did you mean spec.recipe?"),
        (
            "recipe: {iterations: many}",
            'spec.recipe.iterations: is "many", wanted an integer; write a number such as 500',
        ),
        (
            'recipe: {iterations: "500"}',
            'spec.recipe.iterations: is "500", wanted an integer; write 500 without quotes',
        ),
        ("recipe: {iterations: yes}", "spec.recipe.iterations: is true, wanted an integer; write a number such as 500"),
        ("recipe: {seed: 1.5}", "spec.recipe.seed: is 1.5, wanted an integer; write a number such as 1"),
        ("recipe: {samplesPerProblem: 1}", "spec.recipe.samplesPerProblem: is 1; use at least 2"),
        ("recipe: {temperature: 0}", "spec.recipe.temperature: is 0; use more than 0"),
        (
            "recipe: {temperature: warm}",
            'spec.recipe.temperature: is "warm", wanted a number; write one such as 1.0',
        ),
        (
            'recipe: {temperature: "0.7"}',
            'spec.recipe.temperature: is "0.7", wanted a number; write 0.7 without quotes',
        ),
        ("recipe: {temperature: .inf}", "spec.recipe.temperature: is inf, wanted a finite number; write one"),
        ("recipe:", "spec.recipe: is empty, wanted fields below it; fill them in or remove it"),
        ("recipe: [1]", "spec.recipe: is a list, wanted fields below it; write each as `name: value`"),
        (
            "recipe: {objective: {resetOptimizer: maybe}}",
            'spec.recipe.objective.resetOptimizer: is "maybe"; use true or false',
        ),
        ("hybrid: {gpu: {sharing: Dra}}", 'spec.hybrid.gpu.sharing: is "Dra"; use DRA, VisibleAll or None'),
        ("hybrid: {gpu: {sharing: null}}", "spec.hybrid.gpu.sharing: is empty; use DRA, VisibleAll or None"),
        ("switch: {strategy: Reuse}", 'spec.switch.strategy: is "Reuse"; use Restart, Sleep or Resident'),
        (
            "hybrid: {sharedMemory: 64 GB}",
            'spec.hybrid.sharedMemory: is "64 GB"; write a quantity such as 500m, 16 or 64Gi',
        ),
        (
            "hybrid: {gpus_per_pod: 2}",
            "spec.hybrid.gpus_per_pod: unknown field; did you mean spec.hybrid.gpusPerPod?",
        ),
        (
            "hybrid: {resources: {limits: {nvidia.com/gpu: 8}}}",
            'spec.hybrid.resources.limits["nvidia.com/gpu"]: is 8, wanted text; put it in quotes: "8"',
        ),
        ("trainer: {image: null}", "spec.trainer.image: is empty, wanted text; write some"),
        (
            "trainer: {image: 2026-01-01}",
            "spec.trainer.image: is 2026-01-01, which YAML reads as a date; put it in quotes",
        ),
        (
            "trainer: {optimizer: {betas: [0.9]}}",
            "spec.trainer.optimizer.betas[1]: is missing; add it",
        ),
        (
            "trainer: {optimizer: {betas: [0.9, 0.95, 1]}}",
            "spec.trainer.optimizer.betas: has 3 items; keep at most 2",
        ),
        ("rewards: []", "spec.rewards: has 0 items; write at least 1"),
        ("rewards: {name: answer}", "spec.rewards: is a mapping, wanted a list; begin each item with -"),
        (
            "rewards: [{name: answer, builtin: Digits}]",
            'spec.rewards[0].builtin: is "Digits"; use ExactMatch',
        ),
        (
            "rewards: [{name: a, builtin: ExactMatch}, {name: a, builtin: ExactMatch}]",
            "spec.rewards: the name a is used twice; give each its own",
        ),
        (
            "data: {train: [{name: a, path: a.jsonl}, {name: a, path: b.jsonl}]}",
            "spec.data.train: the name a is used twice; give each its own",
        ),
        ("data: {train: [{name: '', path: a.jsonl}]}", "spec.data.train[0].name: has 0 characters; write at least 1"),
        ("policy: {}", "spec.policy.model: is missing; add it"),
        ("iterations: 5", "spec.iterations: unknown field; did you mean spec.recipe.iterations?"),
        (
            "replicas: 2",
            "spec.replicas: unknown field; did you mean spec.hybrid.replicas or spec.rollout.elastic.replicas?",
        ),
        (
            "checkpoints: {zone: x}",
            "spec.checkpoints.zone: unknown field; use one of claimName, everyIterations, keepBest, keepEvery,"
            " keepLast",
        ),
        (
            "podTemplate: {metadata: {annotations: {on: call}}}",
            "spec.podTemplate.metadata.annotations: the key true is not text; put it in quotes",
        ),
    ],
)
def test_a_mistake_in_the_spec_is_told_in_one_line_with_its_fix(spec: str, line: str) -> None:
    document = valid_with_spec(spec)

    assert problems_of(document) == (line,)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"kind": "Job"}, 'kind: is "Job"; use RLJob'),
        ({"apiVersion": "tandem.dev/v1"}, 'apiVersion: is "tandem.dev/v1"; use tandem.dev/v1alpha1'),
        ({"metadata": {}}, "metadata.name: is missing; add it"),
        (
            {"metadata": {"name": "Math_8B"}},
            'metadata.name: is "Math_8B"; use lower-case letters, digits and -, '
            "beginning with a letter and not ending with -",
        ),
        ({"metadata": {"name": "m" * 51}}, "metadata.name: has 51 characters; keep at most 50"),
        (
            {"metadata": {"name": "m", "namespace": "-"}},
            'metadata.namespace: is "-"; use lower-case letters, digits and -, neither first nor last a -',
        ),
        ({"spec": 3}, "spec: is 3, wanted fields below it; write each as `name: value`"),
    ],
)
def test_a_mistake_outside_the_spec_is_told_the_same_way(change: dict[str, object], line: str) -> None:
    document = yaml.safe_load(BASE) | change

    assert problems_of(document) == (line,)


@pytest.mark.parametrize(
    ("document", "line"),
    [
        (None, "document: is empty, wanted an RLJob; begin with apiVersion, kind, metadata and spec"),
        ([], "document: is a list, wanted an RLJob; begin with apiVersion, kind, metadata and spec"),
        ("RLJob", 'document: is "RLJob", wanted an RLJob; begin with apiVersion, kind, metadata and spec'),
    ],
)
def test_a_document_that_is_no_mapping_is_one_clear_line(document: object, line: str) -> None:
    assert problems_of(document) == (line,)


def test_all_mistakes_come_at_once_sorted_by_field() -> None:
    document = valid_with_spec(
        """
        recipe: {iterations: 0, seed: -1}
        hybrid: {gpusPerPod: 65}
        rewards: [{name: a, builtin: ExactMatch}, {name: b}, {builtin: ExactMatch}]
        """
    )

    assert problems_of(document) == (
        "spec.hybrid.gpusPerPod: is 65; use at most 64",
        "spec.recipe.iterations: is 0; use at least 1",
        "spec.recipe.seed: is -1; use at least 0",
        "spec.rewards[1]: wants exactly one of builtin, python and http; write one, remove the others",
        "spec.rewards[2].name: is missing; add it",
    )


def test_items_are_sorted_by_number_not_by_spelling() -> None:
    document = valid_with_spec("rewards: []")
    term = {"name": "a", "builtin": "ExactMatch"}
    document["spec"]["rewards"] = [{}, *([term] * 9), {}]  # type: ignore[index]

    lines = problems_of(document)

    assert [line.split(":")[0] for line in lines] == ["spec.rewards[0].name", "spec.rewards[10].name"]


def test_an_empty_mapping_lacks_the_four_fields_of_every_manifest() -> None:
    assert problems_of({}) == (
        "apiVersion: is missing; add apiVersion: tandem.dev/v1alpha1",
        "kind: is missing; add kind: RLJob",
        "metadata: is missing; add it",
        "spec: is missing; add it",
    )


def test_a_misspelt_field_is_one_mistake_not_two() -> None:
    document = valid_with_spec("polcy: {model: {path: /models/tiny}}")
    del document["spec"]["policy"]  # type: ignore[attr-defined]

    assert problems_of(document) == ("spec.polcy: unknown field; did you mean spec.policy?",)


def test_the_lines_are_also_the_text_of_the_error() -> None:
    with pytest.raises(InvalidJob, match=r"^kind: is missing; add kind: RLJob$"):
        parse_job({key: value for key, value in yaml.safe_load(BASE).items() if key != "kind"})


def test_a_number_without_a_point_is_a_number_as_for_kubectl() -> None:
    document = valid_with_spec("trainer: {optimizer: {learningRate: 2e-6}}")

    job = parse_job(document)

    assert math.isclose(job.spec.trainer.optimizer.learning_rate, 2e-6)


def test_what_an_api_server_adds_to_metadata_is_no_mistake() -> None:
    document = yaml.safe_load(BASE)
    document["metadata"] |= {"uid": "1234", "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}]}

    job = parse_job(document)

    assert job.metadata.uid == "1234"


def test_a_document_that_holds_itself_is_refused() -> None:
    document = valid_with_spec("{podTemplate: {spec: &loop {again: *loop}}}")

    assert problems_of(document) == ("spec.podTemplate.spec: is nested deeper than 40 levels; make it flatter",)


def test_parsing_leaves_the_document_as_it_is() -> None:
    document = valid_with_spec("trainer: {optimizer: {learningRate: 2e-6}}")
    before = copy.deepcopy(document)

    parse_job(document)

    assert document == before


def test_a_job_parses_again_from_what_it_is_written_as(tmp_path: Path) -> None:
    job = parse_job(yaml.safe_load(BASE))
    (tmp_path / "rljob.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))

    assert parse_job(yaml.safe_load((tmp_path / "rljob.yaml").read_text())) == job
