"""The policy's tokenizer and the limits that its folder names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue
from tokenizers import Tokenizer

from tandem_master.data.chat import ChatTemplate, read_chat_template
from tandem_master.data.policy_file import parse_file
from tandem_master.errors import DataError


class ModelConfig(BaseModel):
    """What the master reads of config.json; its other fields are the trainer's and the server's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    max_position_embeddings: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    quantization_config: JsonValue = None


class GenerationConfig(BaseModel):
    """What the master reads of generation_config.json."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    eos_token_id: int | tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class PolicyText:
    """Text to tokens and back, as the policy's folder has it."""

    tokenizer: Tokenizer
    eos_token_ids: frozenset[int]
    max_position_embeddings: int | None
    """Longest sequence of the model, None where the folder does not say."""
    is_quantised: bool = False
    """Whether servers get rounded weights, FP8 with block scales; a trainer has all their bits."""
    chat_template: ChatTemplate | None = None
    """None where the policy's folder has none."""

    def encode(self, prompts: Sequence[str], *, is_chat: bool = False) -> tuple[tuple[int, ...], ...]:
        """Return the tokens of each prompt, with the special tokens that the tokenizer puts around a text.

        A chat template puts its own into a text: `is_chat` leaves the tokenizer's away.
        """
        encodings = self.tokenizer.encode_batch(list(prompts), add_special_tokens=not is_chat)
        return tuple(tuple(encoding.ids) for encoding in encodings)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of a response without its end token and without special tokens."""
        return self.decode_all([token_ids])[0]

    def decode_all(self, responses: Sequence[Sequence[int]]) -> Sequence[str]:
        """Do as decode for each response. Other threads go on meanwhile: the tokenizer needs no interpreter."""
        texts: list[str] = self.tokenizer.decode_batch([*map(self._without_end, responses)], skip_special_tokens=True)
        return texts

    def _without_end(self, token_ids: Sequence[int]) -> list[int]:
        kept = list(token_ids)
        while kept and kept[-1] in self.eos_token_ids:
            kept.pop()
        return kept


def read_policy_text(folder: Path) -> PolicyText:
    """Return tokenizer and limits of the policy in `folder`. Errors: DataError names the file."""
    config = parse_file(folder / "config.json", ModelConfig)
    generation_path = folder / "generation_config.json"
    generation = parse_file(generation_path, GenerationConfig) if generation_path.exists() else GenerationConfig()
    tokenizer_path = folder / "tokenizer.json"
    if not tokenizer_path.is_file():
        raise DataError(f"spec.policy.model.path: {tokenizer_path} is missing; save the policy's fast tokenizer there")
    return PolicyText(
        tokenizer=_tokenizer(tokenizer_path),
        eos_token_ids=_ids(generation.eos_token_id) or _ids(config.eos_token_id),
        max_position_embeddings=config.max_position_embeddings,
        is_quantised=config.quantization_config is not None,
        chat_template=read_chat_template(folder),
    )


def _tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises nothing more precise
        raise DataError(
            f"spec.policy.model.path: {path} is no tokenizer ({error}); save the policy's fast tokenizer there"
        ) from None


def _ids(value: int | tuple[int, ...] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)
