"""Files of problems: JSON lines and Parquet, our layout and that of other trainers, texts and conversations."""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from arro3.io import infer_json_schema, read_json, write_parquet

from tandem_api.job.policy import DataSpec, ModelSource, PolicySpec, ProblemSet
from tandem_api.job.recipe import RecipeSpec
from tandem_api.job.sampling import SamplingSpec, SamplingStrategy
from tandem_api.trajectory import Message
from tandem_master.data.catalogue import Catalogue, load_catalogue
from tandem_master.data.chat import read_chat_template
from tandem_master.data.problems import read_problem_set
from tandem_master.errors import DataError
from tests.tandem_master.texts import EOS, VOCABULARY, write_policy

OURS: list[Mapping[str, object]] = [
    {"prompt": "1=", "answer": "1", "id": "one", "difficulty": 0.5},
    {"prompt": "2=", "answer": "2", "id": "two", "difficulty": 1.5, "dataSource": "digits"},
]
THEIRS: list[Mapping[str, object]] = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "system", "content": "5"}, {"role": "user", "content": "12="}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "21"},
        "extra_info": {"index": 7, "split": "train"},
    },
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "34="}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "43"},
        "extra_info": {"index": 8, "split": "train"},
    },
]
TEMPLATE = (
    "{% for message in messages %}\n"
    "    {% if message['role'] == 'system' %}0{{ message.content }}\n"
    "    {%- elif message.role == 'user' %}1{{ message.content }}\n"
    "    {%- else %}{{ raise_exception('no ' ~ message.role) }}\n"
    "    {%- endif %}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}9{{ eos_token }}{% endif %}"
)
BAD_LINES = ('{"prompt": "1="}', '{"prompt": "2=", "answer": 2}', "{", "[1, 2]")


def ids_of(text: str) -> tuple[int, ...]:
    """The tokens of digits and signs."""
    return tuple(VOCABULARY[character] for character in text)


def json_lines(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_set(path: Path, rows: Sequence[Mapping[str, object]], **fields: float) -> ProblemSet:
    """Write rows as JSON lines, or as Parquet, by the ending of `path`."""
    if path.suffix == ".parquet":
        content = json_lines(rows).encode()
        write_parquet(read_json(io.BytesIO(content), infer_json_schema(io.BytesIO(content))), path)
    else:
        path.write_text(json_lines(rows))
    return ProblemSet(name="set", path=str(path), **fields)


def write_texts(path: Path, *lines: str, share: float = 0.0) -> ProblemSet:
    path.write_text("".join(line + "\n" for line in lines))
    return ProblemSet(name="set", path=str(path), max_malformed_share=share)


def chat_policy(folder: Path, config: Mapping[str, object] | None = None) -> Path:
    """A policy with a chat template that writes 0 before a system's message, 1 before a user's and 9 at the end."""
    write_policy(folder)
    written = (
        {"chat_template": TEMPLATE, "eos_token": {"content": "<eos>", "special": True}} if config is None else config
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return folder


def load(folder: Path, problems: ProblemSet, recipe: RecipeSpec | None = None, *, chat: bool = False) -> Catalogue:
    policy = PolicySpec(model=ModelSource(path=str(folder)))
    return load_catalogue(policy, DataSpec(train=(problems,), apply_chat_template=chat), recipe)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_our_layout_is_read_from_json_lines_and_from_parquet_alike(tmp_path: Path, name: str) -> None:
    loaded = read_problem_set(write_set(tmp_path / name, OURS))

    assert [(item.id, item.prompt, item.answer) for item in loaded.problems] == [
        ("set/one", "1=", "1"),
        ("set/two", "2=", "2"),
    ]
    assert [(item.difficulty, item.data_source) for item in loaded.problems] == [(0.5, None), (1.5, "digits")]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_the_layout_of_other_trainers_is_read_with_its_messages_and_ground_truth(tmp_path: Path, name: str) -> None:
    loaded = read_problem_set(write_set(tmp_path / name, THEIRS))

    first, second = loaded.problems
    assert (first.id, first.answer, first.data_source) == ("set/1", "21", "openai/gsm8k")
    assert first.messages == (Message(role="system", content="5"), Message(role="user", content="12="))
    assert second.messages == (Message(role="user", content="34="),)


def test_a_ground_truth_that_is_a_number_counts_as_its_digits(tmp_path: Path) -> None:
    row = {"prompt": "1=", "reward_model": {"ground_truth": 34}}

    (problem,) = read_problem_set(write_set(tmp_path / "a.jsonl", [row])).problems

    assert problem.answer == "34"


def test_messages_go_by_the_policys_chat_template_and_texts_only_where_the_spec_says_so(tmp_path: Path) -> None:
    folder = chat_policy(tmp_path / "policy")
    theirs = write_set(tmp_path / "theirs.jsonl", THEIRS)
    ours = write_set(tmp_path / "ours.jsonl", OURS)

    messages, texts, as_messages = load(folder, theirs), load(folder, ours), load(folder, ours, chat=True)

    assert messages.prompt_token_ids["set/1"] == (*ids_of("05112=9"), EOS)
    assert texts.prompt_token_ids["set/one"] == ids_of("1=")
    assert as_messages.prompt_token_ids["set/one"] == (*ids_of("11=9"), EOS)
    assert as_messages.problems["set/one"].prompt == "11=9<eos>"


def test_a_file_of_its_own_wins_over_the_template_in_the_tokenizers_configuration(tmp_path: Path) -> None:
    folder = chat_policy(tmp_path / "policy")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}=")
    template = read_chat_template(folder)

    assert template is not None
    assert template.text([Message(role="user", content="7")]) == "7="


def test_of_several_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "1"}, {"name": "default", "template": "{{ messages | tojson }}"}]
    template = read_chat_template(chat_policy(tmp_path / "policy", {"chat_template": named}))

    assert template is not None
    assert template.text([Message(role="user", content="<ü>")]) == '[{"role": "user", "content": "<ü>"}]'


def test_a_template_cannot_reach_what_is_behind_its_values(tmp_path: Path) -> None:
    template = read_chat_template(
        chat_policy(tmp_path / "policy", {"chat_template": "{{ messages.__class__.__mro__ }}"})
    )

    assert template is not None
    with pytest.raises(ValueError, match="the policy's chat template refuses the messages"):
        template.text([Message(role="user", content="1")])


def test_a_template_that_is_no_jinja_is_named(tmp_path: Path) -> None:
    folder = chat_policy(tmp_path / "policy", {"chat_template": "{% if %}"})

    with pytest.raises(DataError, match=r"tokenizer_config.json: the chat template is no Jinja"):
        read_chat_template(folder)


def test_messages_without_a_template_are_named_by_file_and_line(tmp_path: Path) -> None:
    folder = write_policy(tmp_path / "policy")

    with pytest.raises(DataError, match=r"a.jsonl:1: the prompt wants a chat template, and spec.policy.model.path has"):
        load(folder, write_set(tmp_path / "a.jsonl", THEIRS))


def test_messages_that_a_template_refuses_are_named_by_file_and_line(tmp_path: Path) -> None:
    folder = chat_policy(tmp_path / "policy")
    rows = [{"prompt": [{"role": "tool", "content": "1"}], "answer": "1"}]

    with pytest.raises(DataError, match=r"a.jsonl:1: the policy's chat template refuses the messages: no tool"):
        load(folder, write_set(tmp_path / "a.jsonl", rows))


def test_malformed_lines_within_the_share_are_left_out_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (*BAD_LINES, *(json.dumps({"prompt": f"{i}=", "answer": str(i)}) for i in range(4)))
    problems = write_texts(tmp_path / "a.jsonl", *lines, share=0.5)

    with caplog.at_level(logging.WARNING):
        catalogue = load(write_policy(tmp_path / "policy"), problems)

    assert list(catalogue.problems) == ["set/5", "set/6", "set/7", "set/8"]
    assert "a.jsonl: 4 of 8 lines are malformed and left out" in caplog.text
    assert "a.jsonl:2: answer: Input should be a valid string" in caplog.text


def test_one_malformed_line_more_than_the_share_is_refused_by_its_file_and_line(tmp_path: Path) -> None:
    good = (json.dumps({"prompt": f"{i}=", "answer": str(i)}) for i in range(4))

    with pytest.raises(
        DataError,
        match=r"a.jsonl:1: answer: Field required \(4 of 8 lines malformed, and .*\[set\].maxMalformedShare is 0.49\)",
    ):
        read_problem_set(write_texts(tmp_path / "a.jsonl", *BAD_LINES, *good, share=0.49))


def test_a_prompt_that_leaves_no_room_counts_as_malformed(tmp_path: Path) -> None:
    rows = [{"prompt": "1=", "answer": "1"}, {"prompt": "1" * 40, "answer": "1"}]
    problems = write_set(tmp_path / "a.jsonl", rows, max_malformed_share=0.5)

    catalogue = load(write_policy(tmp_path / "policy"), problems)

    assert list(catalogue.problems) == ["set/1"]


def test_a_set_of_nothing_but_malformed_lines_is_refused_whatever_its_share(tmp_path: Path) -> None:
    problems = write_texts(tmp_path / "a.jsonl", *BAD_LINES, share=1.0)

    with pytest.raises(DataError, match="the file holds no problem"):
        read_problem_set(problems)


@pytest.mark.parametrize("content", [b"", b"hello", b'{"prompt": "1="}\n', b"PAR1 is no footer PAR1"])
def test_a_file_that_is_no_parquet_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"a\.parquet: (not a Parquet file|its Parquet cannot be read)") as refusal:
        read_problem_set(ProblemSet(name="set", path=str(path)))

    assert "\n" not in str(refusal.value)


def test_a_row_that_lacks_its_answer_is_named_by_its_number(tmp_path: Path) -> None:
    rows: list[Mapping[str, object]] = [{"prompt": "1=", "answer": "1"}, {"prompt": "2=", "answer": None}]

    with pytest.raises(DataError, match=r"a.parquet:2: answer: Field required"):
        read_problem_set(write_set(tmp_path / "a.parquet", rows))


def test_fewer_problems_than_an_iteration_draws_are_refused_in_one_line(tmp_path: Path) -> None:
    recipe = RecipeSpec(problems_per_iteration=3)

    with pytest.raises(DataError, match=r"problemsPerIteration: is 3, but spec.data.train holds 2 problems; use 2 or"):
        load(write_policy(tmp_path / "policy"), write_set(tmp_path / "a.jsonl", OURS), recipe)


def test_a_curriculum_by_labels_wants_every_label(tmp_path: Path) -> None:
    sampling = SamplingSpec(strategy=SamplingStrategy.CURRICULUM)
    recipe = RecipeSpec(problems_per_iteration=2, sampling=sampling)
    half = write_set(tmp_path / "half.jsonl", [OURS[0], {"prompt": "2=", "answer": "2", "id": "two"}])
    folder = write_policy(tmp_path / "policy")

    labelled = load(folder, write_set(tmp_path / "a.jsonl", OURS), recipe)

    assert labelled.sets[0].difficulties == (0.5, 1.5)
    with pytest.raises(DataError, match=r"curriculum.difficulty: is Label, and problem set/two .* has no `difficulty`"):
        load(folder, half, recipe)
