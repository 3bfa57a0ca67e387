"""Records as JSON lines."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tandem_operator.program.logs import about, configure_logging, hide_secrets

logger = logging.getLogger("tandem_operator.test")
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2EifQ.c2lnbmF0dXJlc2lnbmF0dXJl"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the process's records go, for one test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    written = io.StringIO()
    configure_logging("json", stream=written)
    yield written
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def records(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return what was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_has_time_level_logger_and_message(stream: io.StringIO) -> None:
    logger.warning("two %s", "words")

    [record] = records(stream)
    assert record["time"].endswith("+00:00")
    assert (record["level"], record["logger"], record["message"]) == ("warning", "tandem_operator.test", "two words")
    assert "job" not in record


def test_a_record_names_the_job_that_was_being_worked_on(stream: io.StringIO) -> None:
    with about("team", "digits"):
        logger.info("inside")
    logger.info("outside")

    inside, outside = records(stream)
    assert (inside["namespace"], inside["job"]) == ("team", "digits")
    assert "job" not in outside


async def test_two_tasks_never_mix_their_jobs(stream: io.StringIO) -> None:
    async def work(name: str) -> None:
        with about("team", name):
            await asyncio.sleep(0)
            logger.info("about %s", name)

    await asyncio.gather(work("a"), work("b"))

    assert [(record["job"], record["message"]) for record in records(stream)] == [("a", "about a"), ("b", "about b")]


def test_an_error_is_one_line_with_its_traceback_inside(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logger.exception("failed")

    [record] = records(stream)
    assert record["message"] == "failed"
    assert "ValueError: broken" in record["error"]


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Authorization: Bearer {JWT}", JWT),
        ("Authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
        (f"got {JWT} back", JWT),
        ("{'token': 'c0ffee-c0ffee-c0ffee'}", "c0ffee-c0ffee"),
        ('password="hunter2hunter2"', "hunter2hunter2"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----", "MHcCAQEE"),
    ],
)
def test_a_secret_never_reaches_the_log(text: str, secret: str, stream: io.StringIO) -> None:
    logger.error("said: %s", text)

    assert secret not in stream.getvalue()
    assert "[hidden]" in stream.getvalue()


def test_a_secret_in_a_traceback_is_hidden_too(stream: io.StringIO) -> None:
    try:
        raise ValueError(f"Bearer {JWT}")
    except ValueError:
        logger.exception("failed")

    assert JWT not in stream.getvalue()


@pytest.mark.parametrize("text", ["12 tokens a second", "the token Secret was created", "tokenBudget: 8192"])
def test_talk_about_tokens_stays_readable(text: str) -> None:
    assert hide_secrets(text) == text


def test_kopf_says_warnings_only(stream: io.StringIO) -> None:
    logging.getLogger("kopf.objects").info("Handler 'unwrap' succeeded.")

    assert stream.getvalue() == ""
