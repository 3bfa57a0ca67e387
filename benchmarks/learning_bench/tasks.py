"""What is learnt: three small tasks, each with a policy that has seen some demonstrations.

`digits` is example 01's, made by its own script. The others take model, tokenizer and mistakes from that script:

  mixed     reverse three or five digits; most problems are short, and the policy mostly knows how; few are long
  wordy     reverse three or four digits, and go on for up to eight tokens that the reward does not see
"""

import importlib.util
import json
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from benchmarks.switch_bench.policies import EXAMPLE, make_toy

EXTRA = "<unused63>"
"""A special token: what a response is decoded to does not hold it."""
MOST_EXTRA = 8
"""Tokens by which a demonstration is longer than its answer."""
COUNTED_EXTRA = 20
"""The same of the longest responses that are right and fit the token budget."""
MIXED_COUNTS: Mapping[int, int] = {3: 128, 5: 32}
"""Problems by number of digits. So few that a sampler sees each several times: it knows a problem by nothing else."""
MIXED_MISTAKES: Mapping[int, float] = {3: 0.05, 5: 0.3}
MIXED_TARGET = 0.42
WORDY_DIGITS = (3, 4)
WORDY_REPEATS = 240
HELD_OUT = 96
MISTAKES = 0.3
WARM_UP_BATCH, WARM_UP_RATE, MOST_STEPS = 128, 2e-3, 1500


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One prompt with one response to it."""

    digits: str
    num_extra: int = 0


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What a policy has seen before it is trained by rewards."""

    mistakes: Mapping[int, float]
    """Chance that a digit is wrong, by digits of its prompts."""
    extra: Sequence[int]
    """Numbers of tokens that follow answers."""
    target: float
    """Chance that a sample is right at which it ends."""
    check_every: int = 8
    """Steps after which the chance is computed."""

    @property
    def lengths(self) -> Sequence[int]:
        return tuple(self.mistakes)


@dataclass(frozen=True, slots=True)
class Task:
    """A policy, its problems, and what is right."""

    name: str
    folder: Path
    held_out: tuple[str, ...]
    """Digits of problems that are not trained on."""
    most_extra: int = 0
    """Tokens by which a right response may be longer than the answer."""

    @property
    def policy(self) -> Path:
        return self.folder / "policy"

    @property
    def problems(self) -> Path:
        return self.folder / "data" / "train.jsonl"

    @property
    def eos_token_id(self) -> int:
        return int(example().ID["<eos>"])

    def accuracy(self, model: Any) -> float:
        """Return the chance that a sample at temperature 1 is right, mean over held-out problems: not sampled."""
        return float(right_chances(model, self.held_out, self.most_extra).mean())


@cache
def example() -> ModuleType:
    """Return the script of example 01."""
    found = importlib.util.spec_from_file_location("make_policy", EXAMPLE / "make_policy.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def make_tasks(folder: Path, names: Collection[str]) -> Mapping[str, Task]:
    """Make the tasks of these names in `folder`, those that are there already left as they are; return them by name."""
    torch.set_num_threads(1)  # sums in a fixed order: the same weights each time
    makers: Mapping[str, Callable[[Path], None]] = {
        "digits": make_digits,
        "mixed": make_mixed,
        "wordy": make_wordy,
    }
    for name in names:
        if not (folder / name / "data").exists():
            makers[name](folder / name)
    return {name: read_task(name, folder / name) for name in names}


def read_task(name: str, folder: Path) -> Task:
    """Return a task that was made."""
    lines = (folder / "data" / "heldout.jsonl").read_text().splitlines()
    held_out = tuple(json.loads(line)["prompt"].removesuffix("=") for line in lines)[:HELD_OUT]
    if name == "wordy":
        return Task(name, folder, held_out[: HELD_OUT // 4], COUNTED_EXTRA)
    return Task(name, folder, held_out)


def make_digits(folder: Path) -> None:
    """Make example 01's policy and problems by its own script."""
    make_toy(folder)


def make_mixed(folder: Path) -> None:
    """Make the task whose problems are of different difficulty."""
    counts = [length for length, number in MIXED_COUNTS.items() for _ in range(number)]
    held_out = [*MIXED_COUNTS] * (HELD_OUT // len(MIXED_COUNTS))
    make_task(WarmUp(MIXED_MISTAKES, (0,), MIXED_TARGET, check_every=1), counts, held_out, folder)


def make_wordy(folder: Path) -> None:
    """Make the task whose right responses may be short or long."""
    extra = tuple(range(MOST_EXTRA + 1))
    warm_up = WarmUp(dict.fromkeys(WORDY_DIGITS, MISTAKES), extra, 0.25)
    held_out = [*WORDY_DIGITS] * (HELD_OUT // len(WORDY_DIGITS))
    make_task(warm_up, [*WORDY_DIGITS] * WORDY_REPEATS, held_out, folder)
    tokenizer = example().make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [EXTRA]})
    tokenizer.save_pretrained(folder / "policy")


def make_task(warm_up: WarmUp, counts: Sequence[int], held_out_counts: Sequence[int], folder: Path) -> None:
    """Make policy, problems and held-out problems of so many digits each, all different."""
    torch.manual_seed(1)
    rng = random.Random(1)
    drawn = _different(rng, [*counts, *held_out_counts])
    train, held_out = drawn[: len(counts)], drawn[len(counts) :]
    model = example().make_model()
    _warm_up(model, warm_up, rng, held_out)
    example().write_policy(folder / "policy", model)
    example().write_problems(folder / "data" / "train.jsonl", train)
    example().write_problems(folder / "data" / "heldout.jsonl", held_out)


def _different(rng: random.Random, counts: Sequence[int]) -> list[str]:
    """Return as many numbers, none twice, of so many digits each."""
    drawn: dict[str, None] = {}
    for count in counts:
        while (digits := "".join(rng.choices("0123456789", k=count))) in drawn:
            pass
        drawn[digits] = None
    return list(drawn)


def _warm_up(model: Any, spec: WarmUp, rng: random.Random, held_out: Sequence[str]) -> None:
    """Take supervised steps until the policy is right as often as `spec` says."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=WARM_UP_RATE, weight_decay=0.0)
    for step in range(MOST_STEPS):
        is_checked = step % spec.check_every == 0
        if is_checked and float(right_chances(model, held_out, max(spec.extra)).mean()) >= spec.target:
            return
        lengths = rng.choices(spec.lengths, k=WARM_UP_BATCH)
        drawn = [Demonstration("".join(rng.choices("0123456789", k=n)), rng.choice(spec.extra)) for n in lengths]
        rates = torch.tensor([spec.mistakes[length] for length in lengths])
        ids, labels = _with_mistakes(*_encoded(drawn), rates)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    raise RuntimeError(f"the warm-up has not reached a reward of {spec.target:g} in {MOST_STEPS} steps")


def _with_mistakes(
    ids_BS: torch.Tensor, labels_BS: torch.Tensor, rate_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return demonstrations with so many wrong digits: the policy learns to be unsure."""
    ids = example().ID
    is_digit = (labels_BS >= ids["0"]) & (labels_BS <= ids["9"])
    wrong = is_digit & (torch.rand(labels_BS.shape) < rate_B[:, None])
    drawn = torch.randint(ids["0"], ids["9"] + 1, labels_BS.shape)
    return torch.where(wrong, drawn, ids_BS), torch.where(wrong, drawn, labels_BS)


def right_chances(model: Any, held_out: Sequence[str], most_extra: int) -> torch.Tensor:
    """Return the chance that a sample for each prompt is right, float32 [B]: the sum over all responses that are.

    They begin alike, with the answer, and go on with up to `most_extra` tokens: one pass over the longest is enough.
    """
    ids, labels = _encoded([Demonstration(digits, most_extra) for digits in held_out])
    with torch.inference_mode():
        logprob_BSV = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[:, :-1].float(), -1)
    wanted_BS, end = labels[:, 1:], example().ID["<eos>"]
    token_BS = logprob_BSV.gather(2, wanted_BS.clamp(min=0)[:, :, None])[:, :, 0].masked_fill(wanted_BS < 0, 0.0)
    before_BS = token_BS.cumsum(1) - token_BS
    may_end_BS = (wanted_BS == example().ID[EXTRA]) | (wanted_BS == end)
    return (before_BS + logprob_BSV[:, :, end]).exp().masked_fill(~may_end_BS, 0.0).sum(1)


def _encoded(demonstrations: Sequence[Demonstration]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids and labels, int64 [B, S], padded on the right; labels outside of responses are -100."""
    ids = example().ID
    prompts = [[ids[c] for c in one.digits + "="] for one in demonstrations]
    responses = [
        [ids[c] for c in one.digits[::-1]] + [ids[EXTRA]] * one.num_extra + [ids["<eos>"]] for one in demonstrations
    ]
    width = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    token_ids = torch.full((len(prompts), width), ids["<pad>"])
    labels = torch.full((len(prompts), width), -100)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        token_ids[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        labels[row, len(prompt) : len(prompt) + len(response)] = torch.tensor(response)
    return token_ids, labels
