"""Makes a starting policy whose answers have a long tail of lengths, its tokenizer and its problems: nothing is
downloaded.

A prompt names a letter and how long to think, "f 2_ 03 =". The answer counts down from there, one word a token, the
hundreds only where they change, "02 01 00 1_ 99 98 … 01 00 0_ 99 98 … 01 00", and then gives the letter that follows,
"g". The numbers are lognormal: half of the answers have at most 50 tokens, one in sixteen has more than ten times as
many, the longest thirty times. A few answers never end: they say "hmm" again and again.

The policy gets a short supervised warm-up. Most demonstrations name the prompt's own letter in the end instead of the
next, and some are caught in "hmm": the policy then counts well, knows both letters, is right in about one case of
three, and rewards are to teach it which letter is meant.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAX_NUMBER = 1499
MEDIAN_NUMBER, SIGMA = 48, 1.5  # of the lognormal numbers
MAX_LENGTH = 1536
LETTERS = "abcdefgh"
SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>", "<unk>"]
HUNDREDS, UNITS = [f"{number}_" for number in range(15)], [f"{number:02}" for number in range(100)]
WORDS = [*SPECIAL_TOKENS, "=", "hmm", *LETTERS, *HUNDREDS, *UNITS]
VOCAB_SIZE = 192  # servers pad vocabularies to multiples of 64: a full one needs no padding
VOCAB = WORDS + [f"<unused{i}>" for i in range(len(WORDS), VOCAB_SIZE)]  # every id the policy may sample has a text
ID = {token: i for i, token in enumerate(VOCAB)}
TRAIN_PROBLEMS, HELDOUT_PROBLEMS = 2048, 256
OWN_LETTERS = 0.6  # the chance that a demonstration ends with the prompt's own letter instead of the next
ENDLESS = 0.03  # the chance that a demonstration never ends
WINDOW = 32  # tokens of a demonstration that is cut: each number is then seen often, without long sequences
WARM_UP_LR, WARM_UP_STEPS = 1e-2, 300
WARM_UP_WHOLE, WARM_UP_SHORT, WARM_UP_CUT = 12, 48, 32  # demonstrations in a step
SHORT_NUMBER = 12
PADDING = 1.5  # longest over shortest of what is computed together


@dataclass(frozen=True)
class Problem:
    """A letter, and how far to count down."""

    letter: str
    number: int

    @property
    def prompt(self) -> str:
        return f"{self.letter} {HUNDREDS[self.number // 100]} {UNITS[self.number % 100]} ="

    def count(self) -> list[str]:
        words = []
        for number in range(self.number - 1, -1, -1):
            words += [HUNDREDS[number // 100]] if number % 100 == 99 else []
            words.append(UNITS[number % 100])
        return words

    def answer(self) -> str:
        following = LETTERS[(LETTERS.index(self.letter) + 1) % len(LETTERS)]
        return " ".join([*self.count(), following])


@dataclass(frozen=True)
class Demonstration:
    """Tokens of prompt and answer; only the answer is learnt."""

    prompt: list[int]
    answer: list[int]


def parse_problem(prompt: str) -> Problem:
    """The problem that a prompt is of."""
    letter, hundreds, units, _ = prompt.split()
    return Problem(letter, 100 * HUNDREDS.index(hundreds) + UNITS.index(units))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; a text is its words with spaces between them."""
    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
    )


def make_model() -> LlamaForCausalLM:
    """A Llama of about 0.1 million parameters; head_dim 32 is the smallest that vLLM serves on a CPU, and attention
    over long answers is most of what training takes there."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=False,
        dtype="float32",
        rms_norm_eps=1e-6,
        pad_token_id=ID["<pad>"],
        bos_token_id=ID["<bos>"],
        eos_token_id=ID["<eos>"],
    )
    return LlamaForCausalLM(config)


def draw_problem(rng: random.Random) -> Problem:
    """A letter, and a lognormal number."""
    number = round(rng.lognormvariate(math.log(MEDIAN_NUMBER), SIGMA))
    return Problem(rng.choice(LETTERS), min(max(number, 1), MAX_NUMBER))


def make_problems(rng: random.Random, number: int) -> list[Problem]:
    """Problems as they come: short ones come more than once."""
    return [draw_problem(rng) for _ in range(number)]


def demonstrate(problem: Problem, rng: random.Random) -> Demonstration:
    """How somebody answers who counts well, often does not move on to the next letter, and may be caught in a loop."""
    prompt = [ID[word] for word in problem.prompt.split()]
    if rng.random() < ENDLESS:
        return Demonstration(prompt, [ID["hmm"]] * WINDOW)
    words = problem.answer().split()
    if rng.random() < OWN_LETTERS:
        words[-1] = problem.letter
    return Demonstration(prompt, [ID[word] for word in words] + [ID["<eos>"]])


def cut(problem: Problem) -> Demonstration:
    """The beginning of an answer."""
    words = problem.count()[:WINDOW]
    return Demonstration([ID[word] for word in problem.prompt.split()], [ID[word] for word in words])


def padded(demonstrations: Sequence[Demonstration]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, padded on the right."""
    length = max(len(item.prompt) + len(item.answer) for item in demonstrations)
    ids = torch.full((len(demonstrations), length), ID["<pad>"])
    labels = torch.full((len(demonstrations), length), -100)
    for row, item in enumerate(demonstrations):
        first, end = len(item.prompt), len(item.prompt) + len(item.answer)
        ids[row, :end] = torch.tensor(item.prompt + item.answer)
        labels[row, first:end] = torch.tensor(item.answer)
    return ids, labels


def log_likelihoods(model: LlamaForCausalLM, demonstrations: Sequence[Demonstration]) -> torch.Tensor:
    """Log-probability of each whole answer, nats."""
    ids, labels = padded(demonstrations)
    log_probs = torch.log_softmax(model(input_ids=ids).logits[:, :-1], dim=-1)
    wanted = labels[:, 1:]
    picked = log_probs.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return picked.masked_fill(wanted < 0, 0.0).sum(dim=1)


def in_chunks(demonstrations: Sequence[Demonstration]) -> list[list[Demonstration]]:
    """Some batches of like lengths: little padding."""
    chunks: list[list[Demonstration]] = []
    for item in sorted(demonstrations, key=lambda one: len(one.answer)):
        if not chunks or len(item.answer) > PADDING * len(chunks[-1][0].answer) + WINDOW:
            chunks.append([])
        chunks[-1].append(item)
    return chunks


@torch.no_grad()
def expected_reward(model: LlamaForCausalLM, problems: Sequence[Problem]) -> float:
    """The chance that a sample at temperature 1 is right: exact, since one answer only is right."""
    right = [
        Demonstration(
            [ID[word] for word in problem.prompt.split()],
            [ID[word] for word in problem.answer().split()] + [ID["<eos>"]],
        )
        for problem in problems
    ]
    chances = [float(chance) for chunk in in_chunks(right) for chance in log_likelihoods(model, chunk).exp()]
    return sum(chances) / len(chances)


def warm_up(model: LlamaForCausalLM, train: Sequence[Problem], rng: random.Random, num_steps: int) -> None:
    """Supervised steps, the learning rate falling to nothing: to count well takes small steps at the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=WARM_UP_LR, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, WARM_UP_LR, total_steps=num_steps + 1, pct_start=0.1)
    for _ in range(num_steps):
        whole = [demonstrate(problem, rng) for problem in rng.choices(train, k=WARM_UP_WHOLE)]
        long = [Problem(rng.choice(LETTERS), rng.randint(1, MAX_NUMBER)) for _ in range(WARM_UP_CUT)]
        short = [Problem(rng.choice(LETTERS), rng.randint(1, SHORT_NUMBER)) for _ in range(WARM_UP_SHORT)]
        demonstrations = [*whole, *(demonstrate(problem, rng) for problem in short), *map(cut, long)]
        num_tokens = sum(len(item.answer) for item in demonstrations)
        for chunk in in_chunks(demonstrations):
            loss = -log_likelihoods(model, chunk).sum() / num_tokens
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """One JSON object a line, which is what the engine reads."""
    rows = [
        {
            "id": f"{path.stem}-{i:04d}",
            "prompt": problem.prompt,
            "answer": problem.answer(),
            "difficulty": problem.number,
        }
        for i, problem in enumerate(problems)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_policy(folder: Path, model: LlamaForCausalLM) -> None:
    """A Hugging Face folder: configuration, weights, tokenizer and where generation ends."""
    model.generation_config = GenerationConfig(
        bos_token_id=ID["<bos>"], eos_token_id=ID["<eos>"], pad_token_id=ID["<pad>"], do_sample=True
    )
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the policy with the long tail, and its problems.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "build", help="folder to make")
    parser.add_argument("--seed", type=int, default=1, help="of the weights, the problems and the warm-up")
    parser.add_argument("--steps", type=int, default=WARM_UP_STEPS, help="of the warm-up")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run made")
    return parser.parse_args()


def main() -> None:
    """Make everything, or nothing if the folder is already there."""
    arguments = read_arguments()
    out: Path = arguments.out
    parts = [out / "policy", out / "data"]
    if all(part.exists() for part in parts) and not arguments.force:
        print(f"{out} holds a policy and data already: pass --force to make them anew")
        return
    started = time.monotonic()
    torch.set_num_threads(1)  # sums in a fixed order: the same seed gives the same weights
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    train, heldout = make_problems(rng, TRAIN_PROBLEMS), make_problems(rng, HELDOUT_PROBLEMS)
    model = make_model()
    warm_up(model, train, rng, arguments.steps)
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    write_policy(parts[0], model)
    write_problems(parts[1] / "train.jsonl", train)
    write_problems(parts[1] / "heldout.jsonl", heldout)
    print(f"{parts[0]}: {model.num_parameters():,} parameters")
    print(f"{parts[1]}: {len(train)} training and {len(heldout)} held-out problems")
    print(f"held-out expected reward {expected_reward(model, heldout):.2f}; {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
