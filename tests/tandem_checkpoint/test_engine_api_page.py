"""docs/engine-api.md names every route and every kind of problem."""

import re
from pathlib import Path

from tandem_checkpoint.http.problems import KINDS
from tests.tandem_checkpoint.api_member import ApiMember, app_of

PAGE = (Path(__file__).parents[2] / "docs" / "engine-api.md").read_text()


def test_the_page_has_every_route() -> None:
    app = app_of(ApiMember())
    routes = {
        f"{method} {path}" for path, methods in app.openapi()["paths"].items() for method in map(str.upper, methods)
    }

    assert set(re.findall(r"^\| `((?:GET|POST) [^`]+)` \|", PAGE, re.MULTILINE)) == routes


def test_the_page_has_every_kind_of_problem() -> None:
    kinds = {(kind.name, str(kind.status)) for kind in KINDS.values()}

    assert set(re.findall(r"^\| `([-a-z]+)` \| (\d{3}) \|", PAGE, re.MULTILINE)) == kinds
