"""The sizes of a policy, from the config.json of its Hugging Face folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class PolicyFolderError(Exception):
    """The folder is no usable policy; the message names the file and the fix."""


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Sizes of a decoder-only transformer."""

    architecture: str
    num_layers: int
    hidden: int
    intermediate: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    tied_embeddings: bool
    norm_epsilon: float
    rope_theta: float
    eos_token_id: int

    def size_of(self, axis: str) -> int:
        """Return the length of a named axis."""
        return {
            "hidden": self.hidden,
            "vocabulary": self.vocabulary,
            "intermediate": self.intermediate,
            "query": self.num_heads * self.head_dim,
            "key/value": self.num_key_value_heads * self.head_dim,
        }[axis]


def read_policy_config(folder: Path) -> PolicyConfig:
    """Read config.json; raise PolicyFolderError where the folder, the file or a field is missing."""
    if not folder.is_dir():
        raise PolicyFolderError(f"{folder} is not a folder; make the policy there, or correct the path")
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise PolicyFolderError(f"{path} is missing; the folder must be in Hugging Face format") from None
    except OSError as error:
        raise PolicyFolderError(f"{path} cannot be read ({error.strerror}); mend the folder") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PolicyFolderError(f"{path} is not JSON ({error}); write the folder again") from None
    try:
        return _parse(raw)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise PolicyFolderError(f"{path} holds a wrong value ({error}); write the folder again") from None
    except (KeyError, IndexError) as error:
        raise PolicyFolderError(f"{path} lacks {error}; write the folder again with transformers") from None


def _parse(raw: dict[str, Any]) -> PolicyConfig:
    heads = raw["num_attention_heads"]
    rope = raw.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise KeyError(f"support for rope_type {rope['rope_type']!r}")
    eos = raw.get("eos_token_id")
    return PolicyConfig(
        architecture=raw["architectures"][0],
        num_layers=raw["num_hidden_layers"],
        hidden=raw["hidden_size"],
        intermediate=raw["intermediate_size"],
        num_heads=heads,
        num_key_value_heads=raw.get("num_key_value_heads") or heads,
        head_dim=int(raw.get("head_dim") or raw["hidden_size"] // heads),
        vocabulary=raw["vocab_size"],
        max_positions=raw["max_position_embeddings"],
        tied_embeddings=bool(raw.get("tie_word_embeddings", False)),
        norm_epsilon=raw["rms_norm_eps"],
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or 10000.0),
        eos_token_id=eos[0] if isinstance(eos, list) else int(eos if eos is not None else -1),
    )
