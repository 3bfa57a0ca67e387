"""What weights cross pods by: plain HTTP, unless the engine's container asks for Mooncake and it can be had."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_checkpoint.__main__ import open_mooncake
from tandem_checkpoint.settings import Settings, SettingsError, wants_mooncake
from tests.tandem_checkpoint.jobs import job_config, settings_of

POD_ADDRESS = "10.0.0.7"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(job_config(tmp_path), tmp_path, POD_ADDRESS)


def test_without_being_asked_nothing_of_mooncake_listens(settings: Settings) -> None:
    assert not wants_mooncake({}, is_private=False)
    assert open_mooncake(settings) is None


def test_an_unknown_transport_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"TANDEM_WEIGHTS_TRANSPORT: is 'udp'; use http or mooncake"):
        wants_mooncake({"TANDEM_WEIGHTS_TRANSPORT": "udp"}, is_private=False)


def test_weights_of_a_job_that_speaks_tls_are_not_sent_in_the_clear() -> None:
    with pytest.raises(SettingsError, match="Mooncake sends weights in the clear"):
        wants_mooncake({"TANDEM_WEIGHTS_TRANSPORT": "mooncake"}, is_private=True)


def test_on_one_machine_mooncake_does_not_listen(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    session = open_mooncake(replace(settings, address="127.0.0.1", wants_mooncake=True))

    assert session is None
    assert "every address of this machine: weights cross pods by plain HTTP" in caplog.text


def test_where_mooncake_cannot_be_loaded_one_line_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "mooncake", None)

    with caplog.at_level(logging.INFO):
        session = open_mooncake(replace(settings, wants_mooncake=True))

    assert session is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "Mooncake cannot be used: " in caplog.text
