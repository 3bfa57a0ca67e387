"""The command: one line and the right exit code for each mistake."""

import pytest

from tandem_operator.__main__ import main

ETCD = ("--etcd", "127.0.0.1:2379")
VARIABLES = ("KUBECONFIG", "TANDEM_OPERATOR_KUBECONFIG", "TANDEM_OPERATOR_ETCD", "KUBERNETES_SERVICE_HOST")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the caller's own variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and what the command wrote."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "--etcd: missing; give host:port of the etcd that the jobs shall use"),
        (("--etcd", "etcd"), "--etcd: 'etcd' is not host:port; give it as in etcd.tandem.svc:2379"),
        (("--etcd", "http://e:1"), "--etcd: 'http://e:1' is a URL; give host:port as in etcd.tandem.svc:2379"),
        (("--etcd", "e:70000"), "--etcd: port 70000 does not exist; give one from 1 to 65535"),
        ((*ETCD, "--workers", "0"), "--workers: 0 is out of range; give 1 to 256"),
        ((*ETCD, "--writes-per-second", "0"), "--writes-per-second: 0 is out of range; give 1 to 10000"),
        ((*ETCD, "--workers", "x"), "--workers: 'x' is not a valid integer; see tandem-operator --help"),
        ((*ETCD, "--namespace", "A_b"), "--namespace: 'A_b' is no Kubernetes name; use lower-case letters"),
        ((*ETCD, "--lease-name", "-"), "--lease-name: '-' is no Kubernetes name; use lower-case letters"),
        ((*ETCD, "--identity", " "), "--identity: not printable or too long; give the pod's name"),
        ((*ETCD, "--metrics-address", "10.1.2.3:80"), "--metrics-address: 10.1.2.3 is neither loopback nor every"),
        ((*ETCD, "--metrics-address", "here:80"), "--metrics-address: 'here' is no IP address; give 127.0.0.1:8081"),
        ((*ETCD, "--kubeconfig", "/none"), "--kubeconfig: /none is no file; give a kubeconfig"),
        ((*ETCD, "--log-format", "xml"), "--log-format: 'xml' is not one of 'json', 'text'"),
        (("--etdc", "e:1"), "tandem-operator: No such option '--etdc'"),
    ],
)
def test_a_wrong_option_is_one_line_with_its_fix_and_exit_code_2(
    arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, written = complaint(capsys, *arguments)

    assert code == 2
    assert written.startswith(line)
    assert written.count("\n") == 1


def test_without_a_way_to_the_api_server_the_last_record_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    code, written = complaint(capsys, *ETCD, "--metrics-address", "127.0.0.1:0")

    assert code == 2
    assert "--kubeconfig: none given, and this is no pod" in written.splitlines()[-1]
    assert "Traceback" not in written
