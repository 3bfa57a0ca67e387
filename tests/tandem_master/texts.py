"""Trajectories, scored outcomes and a toy policy folder for the tests."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tandem_api.trajectory import TokenSegment, Trajectory, TrajectoryState
from tandem_master.buffer.outcome import Outcome

EOS = 0
VOCABULARY = {"<eos>": EOS, "<unk>": 1, "=": 2, **{str(digit): digit + 3 for digit in range(10)}}
MAX_POSITIONS = 32


def write_policy(folder: Path) -> Path:
    """Make a policy folder as far as the master reads it: one token a character."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<eos>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": MAX_POSITIONS, "hidden_size": 8}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS}))
    return folder


def write_problems(path: Path, problems: Sequence[tuple[str, str]]) -> Path:
    """Write prompts and answers as a problem set."""
    path.write_text("".join(json.dumps({"id": p, "prompt": p, "answer": a}) + "\n" for p, a in problems))
    return path


def segment(generation: int, *token_ids: int) -> TokenSegment:
    """Tokens whose log-probabilities tell their generation and place."""
    logprobs = tuple(-generation - index / 100 for index in range(len(token_ids)))
    return TokenSegment(generation=generation, token_ids=token_ids, logprobs=logprobs)


def trajectory(name: str, *segments: TokenSegment, group: str = "1-p-0", problem_id: str = "p") -> Trajectory:
    """An unfinished trajectory of problem `p` with the prompt [7, 8]."""
    return Trajectory(id=name, group=group, problem_id=problem_id, prompt_token_ids=(7, 8), segments=segments)


def unfinished(item: Trajectory) -> Outcome:
    """An outcome that goes on."""
    return Outcome(item, correct=None)


def finished(item: Trajectory, reward: float = 1.0) -> Outcome:
    """An outcome that ended by itself; a reward of 1 is correct."""
    done = {"state": TrajectoryState.FINISHED, "finish_reason": "stop", "reward": reward}
    return Outcome(item.model_copy(update=done), correct=reward == 1.0)
