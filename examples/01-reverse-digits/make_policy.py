"""Makes the toy example's starting policy, tokenizer and problems on the spot: nothing is downloaded.

The task is to reverse the digits of a number: "4821=" is answered by "1284" and the end token. Reinforcement
learning in the Kimi k1.5 report starts from a supervised model, so the policy gets a short supervised warm-up here.
Many digits of its demonstrations are wrong, and it stops as soon as about one sample in five would be right. The policy
then has an idea of the rule but does not follow it reliably; rewards are what teaches it to.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>", "<unk>"]
VOCAB_SIZE = 64  # servers pad vocabularies to multiples of 64: a full one needs no padding
VOCAB = SPECIAL_TOKENS + list("0123456789=")
VOCAB += [f"<unused{i}>" for i in range(len(VOCAB), VOCAB_SIZE)]  # every id the policy may sample has a text
ID = {token: i for i, token in enumerate(VOCAB)}
DIGIT_COUNTS = (3, 4, 5)
TRAIN_PROBLEMS, HELDOUT_PROBLEMS = 1536, 192
WARM_UP_BATCH, WARM_UP_LR, WARM_UP_MAX_STEPS = 128, 2e-3, 600
MISTAKES = 0.3  # the chance that a demonstrated digit is drawn at random instead
CHECK_EVERY, CHECK_PROBLEMS = 4, 256
TARGET_REWARD = 0.18


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and no token that was not asked for: ids of texts simply concatenate.

    transformers 5 reads any Qwen2 folder's vocabulary into its own byte-level tokenizer, whatever class the folder
    names. On digits, "=" and special tokens the two agree, which is all that the task writes; elsewhere they do not.
    """
    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()  # without it, decoding puts spaces between the digits
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )


def make_model() -> Qwen2ForCausalLM:
    """A Qwen2 of about 0.3 million parameters; head_dim 32 is the smallest that vLLM serves on a CPU."""
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        dtype="float32",
        pad_token_id=ID["<pad>"],
        bos_token_id=ID["<bos>"],
        eos_token_id=ID["<eos>"],
    )
    return Qwen2ForCausalLM(config)


def draw_problem(rng: random.Random) -> str:
    """A number to reverse; every digit count is as likely, although there are fewer short numbers."""
    return "".join(rng.choices("0123456789", k=rng.choice(DIGIT_COUNTS)))


def make_problems(rng: random.Random) -> tuple[list[str], list[str]]:
    """Training and held-out problems, all different: held-out rewards then measure the rule, not memory."""
    drawn: dict[str, None] = {}
    while len(drawn) < TRAIN_PROBLEMS + HELDOUT_PROBLEMS:
        drawn[draw_problem(rng)] = None
    problems = list(drawn)
    return problems[HELDOUT_PROBLEMS:], problems[:HELDOUT_PROBLEMS]


def demonstrate(problems: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, padded on the right; only the answer and the end token are learnt."""
    length = 2 * max(DIGIT_COUNTS) + 2
    ids = torch.full((len(problems), length), ID["<pad>"])
    labels = torch.full((len(problems), length), -100)
    for row, problem in enumerate(problems):
        prompt = [ID[c] for c in problem + "="]
        answer = [ID[c] for c in problem[::-1]] + [ID["<eos>"]]
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


def with_mistakes(ids: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Demonstrations with wrong digits: the policy learns the rule and to be unsure, so that samples differ."""
    is_digit = (labels >= ID["0"]) & (labels <= ID["9"])
    wrong = is_digit & (torch.rand(labels.shape) < MISTAKES)
    drawn = torch.randint(ID["0"], ID["9"] + 1, labels.shape)
    return torch.where(wrong, drawn, ids), torch.where(wrong, drawn, labels)


@torch.no_grad()
def expected_reward(model: Qwen2ForCausalLM, problems: list[str]) -> float:
    """The chance that a sample at temperature 1 is right: exact, so that nothing needs to be sampled."""
    ids, labels = demonstrate(problems)
    log_probs = torch.log_softmax(model(input_ids=ids).logits[:, :-1], dim=-1)
    wanted = labels[:, 1:]
    picked = log_probs.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return float(picked.masked_fill(wanted < 0, 0.0).sum(dim=1).exp().mean())


def warm_up(model: Qwen2ForCausalLM, train: list[str], rng: random.Random) -> tuple[int, float]:
    """Supervised steps until the expected reward reaches the target: the same start for every seed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=WARM_UP_LR, weight_decay=0.0)
    reward = expected_reward(model, train[:CHECK_PROBLEMS])
    for step in range(1, WARM_UP_MAX_STEPS + 1):
        ids, labels = with_mistakes(*demonstrate(rng.choices(train, k=WARM_UP_BATCH)))
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % CHECK_EVERY == 0:
            reward = expected_reward(model, train[:CHECK_PROBLEMS])
            if reward >= TARGET_REWARD:
                return step, reward
    raise SystemExit(f"the warm-up reached an expected reward of only {reward:.2f}: try another --seed")


def write_problems(path: Path, problems: list[str]) -> None:
    """One JSON object a line, which is what the engine reads."""
    rows = [
        {"id": f"{path.stem}-{i:04d}", "prompt": p + "=", "answer": p[::-1], "difficulty": len(p)}
        for i, p in enumerate(problems)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_policy(folder: Path, model: Qwen2ForCausalLM) -> None:
    """A Hugging Face folder: configuration, weights, tokenizer and where generation ends."""
    model.generation_config = GenerationConfig(
        bos_token_id=ID["<bos>"], eos_token_id=ID["<eos>"], pad_token_id=ID["<pad>"], do_sample=True
    )
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the toy policy and its problems.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "build", help="folder to make")
    parser.add_argument("--seed", type=int, default=1, help="of the weights, the problems and the warm-up")
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
    train, heldout = make_problems(rng)
    model = make_model()
    steps, reward = warm_up(model, train, rng)
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)
    write_policy(parts[0], model)
    write_problems(parts[1] / "train.jsonl", train)
    write_problems(parts[1] / "heldout.jsonl", heldout)
    print(f"{parts[0]}: {model.num_parameters():,} parameters, {steps} warm-up steps, expected reward {reward:.2f}")
    print(f"{parts[1]}: {len(train)} training and {len(heldout)} held-out problems")
    print(f"held-out expected reward {expected_reward(model, heldout):.2f}; {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
