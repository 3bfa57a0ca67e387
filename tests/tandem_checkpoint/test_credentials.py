"""Who we are to etcd, as the container's variables say it."""

from pathlib import Path

import pytest

from tandem_checkpoint.registry.credentials import EtcdCredentials, read_credentials
from tandem_checkpoint.registry.errors import CredentialsError


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """All variables, each file with its own name in it."""
    names = {"PASSWORD_FILE": "password", "CA": "ca.crt", "CERT": "tls.crt", "KEY": "tls.key"}
    paths = {f"TANDEM_ETCD_{variable}": tmp_path / name for variable, name in names.items()}
    assert all(path.write_text(f"{path.name}\n") for path in paths.values())
    return {"TANDEM_ETCD_USER": "tandem", **{variable: str(path) for variable, path in paths.items()}}


def test_nothing_said_means_nobody_in_particular() -> None:
    assert read_credentials({"TANDEM_ETCD_USER": "", "TANDEM_ETCD_CA": ""}) == EtcdCredentials()


def test_everything_that_is_said_is_taken(files: dict[str, str]) -> None:
    credentials = read_credentials(files)

    assert (credentials.user, credentials.password()) == ("tandem", "password")
    assert credentials.tls() == (b"ca.crt\n", b"tls.key\n", b"tls.crt\n")


def test_an_authority_alone_is_tls_without_a_client_certificate(files: dict[str, str]) -> None:
    credentials = read_credentials({"TANDEM_ETCD_CA": files["TANDEM_ETCD_CA"]})

    assert credentials.tls() == (b"ca.crt\n", None, None)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("USER", "TANDEM_ETCD_PASSWORD_FILE: is set without TANDEM_ETCD_USER; set both or neither"),
        ("PASSWORD_FILE", "TANDEM_ETCD_USER: is set without TANDEM_ETCD_PASSWORD_FILE; set both or neither"),
        ("CERT", "TANDEM_ETCD_KEY: is set without TANDEM_ETCD_CERT; set both or neither"),
        ("KEY", "TANDEM_ETCD_CERT: is set without TANDEM_ETCD_KEY; set both or neither"),
        ("CA", "TANDEM_ETCD_CERT: is set without TANDEM_ETCD_CA; name the authority's certificate too"),
    ],
)
def test_half_of_it_is_refused_in_one_line(files: dict[str, str], absent: str, message: str) -> None:
    del files[f"TANDEM_ETCD_{absent}"]

    with pytest.raises(CredentialsError) as caught:
        read_credentials(files)

    assert str(caught.value) == message


@pytest.mark.parametrize("variable", ["PASSWORD_FILE", "CA", "CERT", "KEY"])
def test_a_file_that_is_not_there_is_named(files: dict[str, str], variable: str) -> None:
    Path(files[f"TANDEM_ETCD_{variable}"]).unlink()

    with pytest.raises(CredentialsError, match=rf"^TANDEM_ETCD_{variable}: .* cannot be read \(No such file"):
        read_credentials(files)


def test_an_empty_password_is_refused(files: dict[str, str]) -> None:
    Path(files["TANDEM_ETCD_PASSWORD_FILE"]).write_text("\n")

    with pytest.raises(CredentialsError, match="is empty; write the password into it"):
        read_credentials(files)


def test_a_mounted_secret_says_it_all(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "username").write_text("tandem\n")

    assert read_credentials({"TANDEM_ETCD_CREDENTIALS": str(tmp_path)}) == read_credentials(files)


@pytest.mark.usefixtures("files")
def test_a_variable_goes_before_the_secret(tmp_path: Path) -> None:
    credentials = read_credentials({"TANDEM_ETCD_CREDENTIALS": str(tmp_path), "TANDEM_ETCD_USER": "other"})

    assert credentials.user == "other"


@pytest.mark.usefixtures("files")
def test_half_of_a_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"^TANDEM_ETCD_PASSWORD_FILE: is set without TANDEM_ETCD_USER"):
        read_credentials({"TANDEM_ETCD_CREDENTIALS": str(tmp_path)})


def test_a_secret_without_any_known_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError) as caught:
        read_credentials({"TANDEM_ETCD_CREDENTIALS": str(tmp_path)})

    assert str(caught.value) == (
        f"TANDEM_ETCD_CREDENTIALS: {tmp_path} has none of username, password, ca.crt, tls.crt, tls.key; "
        "mount the Secret of etcd there"
    )
