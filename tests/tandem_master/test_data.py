"""Problem sets and the policy's tokenizer, with mistakes named by file and line."""

import json
from pathlib import Path

import pytest

from tandem_api.job.policy import DataSpec, ModelSource, PolicySpec, ProblemSet
from tandem_master.data.catalogue import Catalogue, load_catalogue, open_groups
from tandem_master.data.problems import read_problem_set
from tandem_master.data.tokens import read_policy_text
from tandem_master.errors import BufferStateError, DataError
from tests.tandem_master.texts import MAX_POSITIONS, VOCABULARY, write_policy


def digits(path: Path, *lines: str) -> ProblemSet:
    """A problem set of these lines."""
    path.write_text("".join(line + "\n" for line in lines))
    return ProblemSet(name="digits", path=str(path))


def load(tmp_path: Path, *lines: str, max_length_tokens: int = 100) -> Catalogue:
    problems = digits(tmp_path / "train.jsonl", *lines)
    folder = write_policy(tmp_path / "policy")
    policy = PolicySpec(model=ModelSource(path=str(folder)), max_length_tokens=max_length_tokens)
    return load_catalogue(policy, DataSpec(train=(problems,)))


def test_a_problem_without_an_id_is_named_after_its_line(tmp_path: Path) -> None:
    loaded = read_problem_set(
        digits(
            tmp_path / "a.jsonl", '{"prompt": "1=", "answer": "1", "id": "one"}', "", '{"prompt": "2=", "answer": "2"}'
        )
    )

    assert [problem.id for problem in loaded.problems] == ["digits/one", "digits/3"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"a.jsonl:2: Invalid JSON"),
        ('{"prompt": "2="}', r"a.jsonl:2: answer: Field required"),
        ('{"prompt": "", "answer": "2"}', r"a.jsonl:2: prompt: String should have at least 1 character"),
        ('{"prompt": "2=", "answer": 2}', r"a.jsonl:2: answer: Input should be a valid string"),
        ('{"prompt": "2=", "answer": "2", "anwser": "2"}', r"a.jsonl:2: anwser: Extra inputs are not permitted"),
        ('{"prompt": "2=", "answer": "2", "id": "1"}', r"a.jsonl:2: id '1' is used at .*a.jsonl:1 too"),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    problems = digits(tmp_path / "a.jsonl", '{"prompt": "1=", "answer": "1"}', line)

    with pytest.raises(DataError, match=message):
        read_problem_set(problems)


def test_a_set_without_a_problem_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a.jsonl: the file holds no problem"):
        read_problem_set(digits(tmp_path / "a.jsonl"))


def test_a_missing_file_is_named_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"spec.data.train\[digits\].path: .*nowhere.jsonl cannot be read"):
        read_problem_set(ProblemSet(name="digits", path=str(tmp_path / "nowhere.jsonl")))


def test_a_response_is_decoded_without_its_end_token(tmp_path: Path) -> None:
    text = read_policy_text(write_policy(tmp_path / "policy"))

    assert text.decode([VOCABULARY["1"], VOCABULARY["2"], VOCABULARY["<eos>"]]) == "12"


def test_the_longest_trajectory_is_cut_to_what_the_model_holds(tmp_path: Path) -> None:
    catalogue = load(tmp_path, '{"prompt": "12=", "answer": "21"}')

    assert catalogue.max_length_tokens == MAX_POSITIONS
    assert catalogue.prompt_token_ids == {"digits/1": (VOCABULARY["1"], VOCABULARY["2"], VOCABULARY["="])}


def test_a_prompt_that_leaves_no_room_is_named_by_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.jsonl:1: the prompt has 5 tokens, which leaves none of the 5"):
        load(tmp_path, '{"prompt": "1234=", "answer": "4321"}', max_length_tokens=5)


def test_a_policy_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "policy")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(DataError, match=r"spec.policy.model.path: .*tokenizer.json is missing"):
        read_policy_text(folder)


def test_each_drawn_problem_gets_its_samples(tmp_path: Path) -> None:
    catalogue = load(tmp_path, '{"prompt": "1=", "answer": "1", "id": "one"}')

    opened = open_groups(catalogue, ["digits/one"], 2, 7)

    assert [(item.id, item.group) for item in opened] == [
        ("7-digits/one-0", "7-digits/one-0"),
        ("7-digits/one-1", "7-digits/one-0"),
    ]


def test_a_problem_that_is_drawn_twice_makes_two_groups(tmp_path: Path) -> None:
    catalogue = load(tmp_path, '{"prompt": "1=", "answer": "1", "id": "one"}')

    opened = open_groups(catalogue, ["digits/one", "digits/one"], 2, 7)

    assert len({item.id for item in opened}) == 4
    assert len({item.group for item in opened}) == 2


def test_a_problem_of_the_buffer_that_is_gone_from_the_data_is_named(tmp_path: Path) -> None:
    catalogue = load(tmp_path, '{"prompt": "1=", "answer": "1"}')

    with pytest.raises(BufferStateError, match="problem digits/9 of the replay buffer is not there any more"):
        catalogue.problem("digits/9")


@pytest.mark.parametrize("quantization", [None, {"quant_method": "fp8"}])
def test_a_policy_that_is_served_in_fp8_is_known(tmp_path: Path, quantization: dict[str, str] | None) -> None:
    folder = write_policy(tmp_path / "policy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))

    assert read_policy_text(folder).is_quantised is (quantization is not None)
