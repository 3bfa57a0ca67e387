"""The engine's HTTP API: everything but the health checks wants the job's bearer token."""  # noqa: A005 - always imported by its full name

from tandem_checkpoint.http.app import build_app
from tandem_checkpoint.http.serving import QuietServer, serve

__all__ = ["QuietServer", "build_app", "serve"]
