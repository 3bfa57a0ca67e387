"""What is wrong with a policy's folder, known before any process starts.

Only headers, config.json and tokenizer.json are read: a folder of a terabyte takes as long as one of a gigabyte.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from tandem_checkpoint.architectures import architecture_of
from tandem_checkpoint.architectures.block_scales import FORMAT, SCALE_FORMAT, SCALES
from tandem_checkpoint.architectures.block_split import block_problems
from tandem_checkpoint.architectures.config import PolicyConfig, PolicyFolderError, read_policy_config
from tandem_checkpoint.disk.index import FolderIndex, StoredTensor, read_index
from tandem_checkpoint.layouts.scales import quantised_tensors

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
    yield from (f"{folder}/config.json: {problem}" for problem in block_problems(config))
    expected = _tensors_of(config)
    try:
        index = read_index(folder)
    except PolicyFolderError as error:
        yield str(error)
        return
    scales = _scales_of(config, index, expected)
    yield from _missing(index, config, expected | scales)
    yield from _misshapen(index, expected | scales)
    yield from _unreadable(index, expected, quantised_tensors(config))
    yield from _odd_scales(index, scales)


def _tensors_of(config: PolicyConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that the family's table tells of, by name."""
    rules = architecture_of(config.architecture).rules(config)
    return {name: shape for rule in rules for name, shape in rule.tensors(config)}


def _scales_of(
    config: PolicyConfig, index: FolderIndex, expected: dict[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shape of the scales of each matrix that is there in FP8; one in plain numbers has none."""
    how, quantised = config.block_scales, quantised_tensors(config)
    found = (tensor.name for tensor in _found(index, expected) if tensor.dtype == FORMAT)
    return {name + SCALES: how.grid(expected[name]) for name in found if how is not None and name in quantised}


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


def _unreadable(index: FolderIndex, expected: dict[str, tuple[int, ...]], quantised: frozenset[str]) -> Iterator[str]:
    wrong = [
        tensor
        for tensor in _found(index, expected)
        if tensor.dtype not in READABLE and not (tensor.dtype == FORMAT and tensor.name in quantised)
    ]
    if wrong:
        fp8 = "; FP8 is taken where quantization_config of config.json says so" if wrong[0].dtype == FORMAT else ""
        yield (
            f"{wrong[0].file}: {wrong[0].name} is {wrong[0].dtype}{_and_others(wrong)}; a trainer starts from "
            f"{', '.join(READABLE[:-1])} or {READABLE[-1]}, so convert the policy to bfloat16{fp8}"
        )


def _odd_scales(index: FolderIndex, scales: dict[str, tuple[int, ...]]) -> Iterator[str]:
    wrong = [tensor for tensor in _found(index, scales) if tensor.dtype != SCALE_FORMAT]
    if wrong:
        yield (
            f"{wrong[0].file}: {wrong[0].name} is {wrong[0].dtype}{_and_others(wrong)}; scales are read in "
            f"{SCALE_FORMAT}, so convert them"
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
