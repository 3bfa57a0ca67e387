"""What the caller tells the operator: options and their environment variables, parsed once."""

import ipaddress
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast

import click

from tandem_checkpoint.registry.credentials import CREDENTIALS, NOBODY, EtcdCredentials, read_credentials
from tandem_checkpoint.registry.errors import CredentialsError
from tandem_operator.program.errors import SettingsError

LogFormat = Literal["json", "text"]
Code = TypeVar("Code")
"""What a command returns."""

DEFAULT_LEASE_NAME = "tandem-operator"
DEFAULT_METRICS_ADDRESS = "127.0.0.1:8081"
DEFAULT_WORKERS = 8
MAX_WORKERS = 256
DEFAULT_WRITES_PER_SECOND, MAX_WRITES_PER_SECOND = 200, 10_000
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where Kubernetes tells a pod its namespace."""
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
NAME_FIX = "use lower-case letters, digits, - and ."
LABEL_FIX = "use lower-case letters, digits and -, at most 63"
EVERY_INTERFACE = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Address:
    """Where the operator listens; port 0 takes any free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class LeasePlace:
    """The Lease that the replicas contend for, and the name of this one."""

    namespace: str
    name: str
    identity: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that the operator knows before it looks around."""

    kubeconfig: Path | None
    """None: the service account of the pod that this runs in."""
    namespaces: tuple[str, ...]
    """Namespaces that are served; none of them means all."""
    etcd: tuple[str, ...]
    """`host:port` of the jobs' registry."""
    lease: LeasePlace
    metrics: Address
    """Where probes and metrics are served."""
    workers: int
    """Funnels that run at once."""
    writes_per_second: int
    """Writes to the API server at a steady rate; twice as many may go at once after a quiet time."""
    log_format: LogFormat
    etcd_credentials: EtcdCredentials
    """Who the operator is to that registry."""
    etcd_secret: str | None
    """Secret in each job's namespace that says who the job is to it; None: jobs log in as nobody."""
    master_image: str | None
    """Image of the master pods where a job names none; None: the planner's own."""


def parse_settings(
    *,
    kubeconfig: str | None,
    namespace: Sequence[str],
    etcd: Sequence[str],
    etcd_credentials: str | None,
    etcd_secret: str | None,
    lease_namespace: str | None,
    lease_name: str,
    identity: str | None,
    metrics_address: str,
    workers: int,
    writes_per_second: int,
    log_format: str,
    master_image: str | None,
) -> Settings:
    """Return the settings that the options name. SettingsError: `--option: problem; fix`."""
    place = LeasePlace(
        _matching("--lease-namespace", lease_namespace or own_namespace(), DNS_LABEL, LABEL_FIX),
        _matching("--lease-name", lease_name, DNS_NAME, NAME_FIX),
        _identity(identity),
    )
    return Settings(
        kubeconfig=_kubeconfig(kubeconfig),
        namespaces=tuple(_matching("--namespace", name, DNS_LABEL, LABEL_FIX) for name in _parts(namespace)),
        etcd=_endpoints(etcd),
        etcd_credentials=_credentials(etcd_credentials),
        etcd_secret=_matching("--etcd-secret", etcd_secret, DNS_NAME, NAME_FIX) if etcd_secret else None,
        lease=place,
        metrics=parse_address(metrics_address),
        workers=_within("--workers", workers, MAX_WORKERS),
        writes_per_second=_within("--writes-per-second", writes_per_second, MAX_WRITES_PER_SECOND),
        log_format=cast("LogFormat", log_format),
        master_image=master_image or None,
    )


def parse_address(text: str) -> Address:
    """Return where to listen: a loopback address, or every interface where that is asked for by name."""
    host, port = _host_and_port("--metrics-address", text, DEFAULT_METRICS_ADDRESS)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise SettingsError(
            f"--metrics-address: {host!r} is no IP address; give {DEFAULT_METRICS_ADDRESS}, or 0.0.0.0:8081 in a pod"
        ) from None
    if not loopback and host not in EVERY_INTERFACE:
        raise SettingsError(
            f"--metrics-address: {host} is neither loopback nor every interface; "
            f"give {DEFAULT_METRICS_ADDRESS}, or 0.0.0.0:{port} in a pod"
        )
    return Address(host, port)


def own_namespace(file: Path = NAMESPACE_FILE) -> str:
    """Return the namespace of the pod that this runs in; `default` outside one."""
    try:
        return file.read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


def _kubeconfig(text: str | None) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser()
    if not path.is_file():
        raise SettingsError(f"--kubeconfig: {path} is no file; give a kubeconfig, or leave it out in a pod")
    return path


def _credentials(folder: str | None) -> EtcdCredentials:
    if not folder:
        return NOBODY
    try:
        return read_credentials({CREDENTIALS: folder})
    except CredentialsError as error:
        raise SettingsError(f"--etcd-credentials: {str(error).removeprefix(f'{CREDENTIALS}: ')}") from None


def _endpoints(given: Sequence[str]) -> tuple[str, ...]:
    endpoints = _parts(given)
    if not endpoints:
        raise SettingsError("--etcd: missing; give host:port of the etcd that the jobs shall use")
    for endpoint in endpoints:
        _host_and_port("--etcd", endpoint, "etcd.tandem.svc:2379")
    return tuple(endpoints)


def _host_and_port(option: str, text: str, example: str) -> tuple[str, int]:
    """Return both halves of `host:port`; an IPv6 host stands in brackets."""
    if "://" in text:
        raise SettingsError(f"{option}: {text!r} is a URL; give host:port as in {example}")
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal():
        raise SettingsError(f"{option}: {text!r} is not host:port; give it as in {example}")
    lowest = 0 if option == "--metrics-address" else 1
    if not lowest <= int(port) <= 65535:
        raise SettingsError(f"{option}: port {port} does not exist; give one from {lowest} to 65535")
    return host, int(port)


def _identity(text: str | None) -> str:
    """Return the name of this replica: the given one, or one that no other process has."""
    identity = text or f"{socket.gethostname()}-{secrets.token_hex(4)}"
    if len(identity) > 253 or not identity.isprintable() or not identity.strip():
        raise SettingsError("--identity: not printable or too long; give the pod's name")
    return identity


def _within(option: str, number: int, most: int) -> int:
    if not 1 <= number <= most:
        raise SettingsError(f"{option}: {number} is out of range; give 1 to {most}")
    return number


def _matching(option: str, text: str, pattern: re.Pattern[str], fix: str) -> str:
    if pattern.fullmatch(text) is None:
        raise SettingsError(f"{option}: {text!r} is no Kubernetes name; {fix}")
    return text


def _parts(given: Iterable[str]) -> list[str]:
    """Return the items of a repeatable option; each may be a list with commas, without doubles, in order."""
    items = (part.strip() for text in given for part in text.split(","))
    return list(dict.fromkeys(part for part in items if part))


def options(command: Callable[..., Code]) -> Callable[..., Code]:
    """Add every option of the operator to a click command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def usage_line(error: click.ClickException) -> str:
    """Return click's complaint as `--option: problem; fix`."""
    message = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, click.BadParameter) and error.param is not None:
        option = max(error.param.opts, key=len)
        return f"{option}: {error.message.rstrip('.')}; see tandem-operator --help"
    return f"tandem-operator: {message}; see tandem-operator --help"


def _variable(name: str) -> str:
    return f"TANDEM_OPERATOR_{name}"


_OPTIONS = (
    click.option(
        "--kubeconfig",
        envvar=[_variable("KUBECONFIG"), "KUBECONFIG"],
        metavar="FILE",
        help="Way to the API server; left out: the service account of the pod that this runs in.",
    ),
    click.option(
        "--namespace",
        multiple=True,
        envvar=_variable("NAMESPACE"),
        metavar="NAME",
        help="Serve this namespace only; repeatable. Left out: all of them.",
    ),
    click.option(
        "--etcd",
        multiple=True,
        envvar=_variable("ETCD"),
        metavar="HOST:PORT",
        help="The jobs' registry; repeatable. Required.",
    ),
    click.option(
        "--etcd-credentials",
        envvar=_variable("ETCD_CREDENTIALS"),
        metavar="FOLDER",
        help="Who the operator is to that registry: files username and password, ca.crt, tls.crt and tls.key.",
    ),
    click.option(
        "--etcd-secret",
        envvar=_variable("ETCD_SECRET"),
        metavar="NAME",
        help="Secret in each job's namespace with such files, for its pods. Left out: they log in as nobody.",
    ),
    click.option(
        "--lease-namespace",
        envvar=_variable("LEASE_NAMESPACE"),
        metavar="NAME",
        help="Namespace of the Lease that replicas contend for. Left out: the pod's own, else default.",
    ),
    click.option(
        "--lease-name",
        envvar=_variable("LEASE_NAME"),
        default=DEFAULT_LEASE_NAME,
        show_default=True,
        metavar="NAME",
        help="Name of that Lease; replicas with the same one stand in for each other.",
    ),
    click.option(
        "--identity",
        envvar=_variable("IDENTITY"),
        metavar="TEXT",
        help="Name of this replica in the Lease. Left out: the host's name and a random end.",
    ),
    click.option(
        "--metrics-address",
        envvar=_variable("METRICS_ADDRESS"),
        default=DEFAULT_METRICS_ADDRESS,
        show_default=True,
        metavar="IP:PORT",
        help="Where /livez, /readyz and /metrics are served: loopback, or 0.0.0.0 in a pod.",
    ),
    click.option(
        "--workers",
        envvar=_variable("WORKERS"),
        type=int,
        default=DEFAULT_WORKERS,
        show_default=True,
        metavar="NUMBER",
        help="Jobs that are reconciled at once.",
    ),
    click.option(
        "--writes-per-second",
        envvar=_variable("WRITES_PER_SECOND"),
        type=int,
        default=DEFAULT_WRITES_PER_SECOND,
        show_default=True,
        metavar="NUMBER",
        help="Writes to the API server at a steady rate; twice as many may go at once after a quiet time.",
    ),
    click.option(
        "--log-format",
        envvar=_variable("LOG_FORMAT"),
        type=click.Choice(["json", "text"]),
        default="json",
        show_default=True,
        help="One JSON object a line, or lines for people.",
    ),
    click.option(
        "--master-image",
        envvar=_variable("MASTER_IMAGE"),
        metavar="IMAGE",
        help="Image of the master pods.",
    ),
)
