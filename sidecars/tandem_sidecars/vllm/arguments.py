"""A server's command line: what makes it a server of segments, then the engine's words, as vLLM parses them."""

import json
from argparse import Namespace
from collections.abc import Sequence

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tandem_sidecars.vllm.loader import LOAD_FORMAT
from tandem_sidecars.vllm.transfer import BACKEND, SegmentWorker

OURS = (
    *("--load-format", LOAD_FORMAT),
    *("--weight-transfer-config", json.dumps({"backend": BACKEND})),
    *("--worker-extension-cls", f"{SegmentWorker.__module__}.{SegmentWorker.__qualname__}"),
)


def parse(words: Sequence[str]) -> Namespace:
    """Return vLLM's own parsed arguments. SystemExit: vLLM does not know one of them."""
    parsed: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args([*words, *OURS])
    validate_parsed_serve_args(parsed)
    return parsed
