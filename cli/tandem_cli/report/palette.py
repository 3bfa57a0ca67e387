"""Colours of the report: told apart by people with any colour vision, on white and on near-black."""

from collections.abc import Mapping

REWARD = "#0072b2"
LENGTH = "#d55e00"
THROUGHPUT = "#009e73"
DIFFERENCE = "#aa4499"
SETS = ("#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8a800", "#56b4e9")
"""Of held-out sets, in turn."""

PHASES: Mapping[str, str] = {"Train": "#0072b2", "Infer": "#e69f00"}
"""Drawn pale; the stages between them stand out."""

STAGES: Mapping[str, str] = {
    "drain": "#7f7f7f",
    "export": "#009e73",
    "offload": "#56b4e9",
    "prepare": "#88ccee",
    "verify": "#ddcc77",
    "fetch": "#332288",
    "start": "#d55e00",
    "load": "#cc79a7",
    "ready": "#b8a800",
    "abort": "#7f7f7f",
    "stop": "#aa4499",
    "reload": "#117733",
}
"""Stages that never meet in one lane may share a colour; every stage is also named in text."""

UNKNOWN = "#999999"
