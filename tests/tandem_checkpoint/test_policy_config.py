"""The sizes of a policy, from what transformers writes."""

from pathlib import Path

import pytest

from tandem_checkpoint.architectures import UnsupportedArchitecture, architecture_of
from tandem_checkpoint.architectures.config import PolicyFolderError, read_policy_config
from tests.tandem_checkpoint.policies import SMALL, write_config


def test_every_size_is_read(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path)) == SMALL


def test_the_head_size_follows_from_the_hidden_size_where_it_is_absent(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path, head_dim=None)).head_dim == SMALL.hidden // SMALL.num_heads


def test_without_groups_every_head_has_its_own_key(tmp_path: Path) -> None:
    folder = write_config(tmp_path, num_key_value_heads=None)

    assert read_policy_config(folder).num_key_value_heads == SMALL.num_heads


def test_the_older_place_of_rope_theta_is_read(tmp_path: Path) -> None:
    folder = write_config(tmp_path, rope_parameters=None, rope_theta=1000000.0)

    assert read_policy_config(folder).rope_theta == 1000000.0


def test_the_first_of_several_end_tokens_counts(tmp_path: Path) -> None:
    assert read_policy_config(write_config(tmp_path, eos_token_id=[5, 6])).eos_token_id == 5


def test_scaled_positions_are_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path, rope_parameters={"rope_type": "yarn", "rope_theta": 1e6})

    with pytest.raises(PolicyFolderError, match="yarn"):
        read_policy_config(folder)


@pytest.mark.parametrize("field", ["vocab_size", "num_attention_heads", "architectures", "rms_norm_eps"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    folder = write_config(tmp_path, **{field: None})

    with pytest.raises(PolicyFolderError, match=field):
        read_policy_config(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match="nowhere is not a folder"):
        read_policy_config(tmp_path / "nowhere")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match=r"config\.json is missing"):
        read_policy_config(tmp_path)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(PolicyFolderError, match=r"config\.json is not JSON"):
        read_policy_config(tmp_path)


def test_a_family_without_a_table_is_told_which_have_one() -> None:
    with pytest.raises(UnsupportedArchitecture, match="is LlamaForCausalLM, which has no table; use one of Qwen2"):
        architecture_of("LlamaForCausalLM")
