"""What is wrong with a policy's folder, known before any process starts.

Only headers, config.json and tokenizer.json are read: a folder of a terabyte takes as long as one of a gigabyte.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError, read_policy_config
from tandem_checkpoint.disk.index import FolderIndex, StoredTensor, read_index

TOKENIZER = "tokenizer.json"
READABLE = ("float32", "bfloat16", "float16")
"""Number formats that a trainer starts from."""


def check_policy(folder: Path) -> None:
    """Raise PolicyFolderError with the first problem of a folder, UnsupportedArchitecture for an unknown family."""
    problem = next(policy_problems(folder, read_policy_config(folder)), None)
    if problem is not None:
        raise PolicyFolderError(problem)


def policy_problems(folder: Path, config: PolicyConfig) -> Iterator[str]:
    """Yield one line, `file: problem; fix`, for each kind of mistake. `config` is that of the folder.

    Raises: UnsupportedArchitecture where the family has no table.
    """
    yield from _tokenizer_problems(folder, config)
    expected = _tensors_of(config)
    try:
        index = read_index(folder)
    except PolicyFolderError as error:
        yield str(error)
        return
    yield from _missing(index, config, expected)
    yield from _misshapen(index, expected)
    yield from _unreadable(index, expected)


def _tensors_of(config: PolicyConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that the family's table tells of, by name."""
    rules = architecture_of(config.architecture).rules(config)
    return {name: shape for rule in rules for name, shape in rule.tensors(config)}


def _missing(index: FolderIndex, config: PolicyConfig, expected: dict[str, tuple[int, ...]]) -> Iterator[str]:
    missing = [name for name in expected if name not in index.tensors]
    if missing:
        yield (
            f"{index.folder} lacks the tensor {missing[0]}{_and_others(missing)}, which a {config.architecture} of "
            f"its config.json has; save the policy again with save_pretrained, or put its own config.json there"
        )


def _misshapen(index: FolderIndex, expected: dict[str, tuple[int, ...]]) -> Iterator[str]:
    wrong = [tensor for tensor in _found(index, expected) if tensor.shape != expected[tensor.name]]
    if wrong:
        yield (
            f"{wrong[0].file}: {wrong[0].name} is {wrong[0].shape}{_and_others(wrong)}, config.json says "
            f"{expected[wrong[0].name]}; put the config.json there that belongs to these weights"
        )


def _unreadable(index: FolderIndex, expected: dict[str, tuple[int, ...]]) -> Iterator[str]:
    wrong = [tensor for tensor in _found(index, expected) if tensor.dtype not in READABLE]
    if wrong:
        yield (
            f"{wrong[0].file}: {wrong[0].name} is {wrong[0].dtype}{_and_others(wrong)}; a trainer starts from "
            f"{', '.join(READABLE[:-1])} or {READABLE[-1]}, so convert the policy to bfloat16"
        )


def _found(index: FolderIndex, expected: dict[str, tuple[int, ...]]) -> Iterator[StoredTensor]:
    return (index.tensors[name] for name in expected if name in index.tensors)


def _and_others(wrong: list[str] | list[StoredTensor]) -> str:
    """Return how many there are beside the first."""
    return f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""


def _tokenizer_problems(folder: Path, config: PolicyConfig) -> Iterator[str]:
    path = folder / TOKENIZER
    if not path.is_file():
        yield f"{path} is missing; save the tokenizer beside the policy"
        return
    try:
        largest = _largest_id(json.loads(path.read_bytes()))
    except OSError as error:
        yield f"{path} cannot be read ({error.strerror}); mend the folder"
        return
    except (ValueError, TypeError, KeyError, RecursionError):
        yield f"{path} is no tokenizer; save the policy's fast tokenizer there"
        return
    if largest >= config.vocabulary:
        yield (
            f"{path} gives out the token {largest}, but vocab_size in config.json is {config.vocabulary}, so the "
            f"largest is {config.vocabulary - 1}; put the tokenizer there that the policy was trained with"
        )


def _largest_id(tokenizer: dict[str, object]) -> int:
    """Return the largest token of a tokenizer.json. Its model holds words by token, or words in the order of tokens."""
    match tokenizer["model"]:
        case {"vocab": dict() as words}:
            ids = [int(number) for number in words.values()]
        case {"vocab": list() as words}:
            ids = [len(words) - 1]
        case _:
            raise KeyError("vocab")
    added = tokenizer.get("added_tokens") or ()
    if not isinstance(added, list | tuple):
        raise TypeError("added_tokens")
    return max(*ids, *(int(token["id"]) for token in added), -1, -1)
