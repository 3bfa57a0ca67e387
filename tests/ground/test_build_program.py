"""tools/control-plane/build.py where something is missing: one line, with the way out."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.ground.programs import BUILD

SECONDS = 60.0


def build(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the build program with an empty cache of its own, and no Go but the one that `GO` names."""
    return subprocess.run(
        [sys.executable, str(BUILD), *arguments],
        env={"HOME": str(folder), "GO": "/nowhere/go", "PATH": "/usr/bin:/bin"} | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def go_that_says(folder: Path, words: str) -> str:
    """Return the path of a Go that knows its version and fails every build with these words."""
    script = folder / "go"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = version ] && echo go version go1.26.8 && exit\necho "{words}" >&2\nexit 1\n'
    )
    script.chmod(0o755)
    return str(script)


def place_programs(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).touch(mode=0o755)


def test_a_machine_without_go_is_told_which_one_to_install(tmp_path: Path) -> None:
    result = build(tmp_path, "node")

    assert result.returncode == 1
    assert result.stderr == (
        "Go: none found; install Go 1.26.8 from https://go.dev/dl/ (any from 1.21 on fetches it), "
        "or run tools/control-plane/packages.sh\n"
    )


def test_a_machine_without_network_is_told_what_could_not_be_reached(tmp_path: Path) -> None:
    go = go_that_says(tmp_path, "go: a/b@v1.0.0: Get x: dial tcp: lookup proxy.invalid: no such host")

    result = build(tmp_path, "node", GO=go, GOPROXY="https://proxy.invalid")

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "kube: no way to the Go module proxy https://proxy.invalid; set GOPROXY or HTTPS_PROXY, or build on the net"
    )


def test_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    go = go_that_says(tmp_path, "compile: writing output: write x: no space left on device")

    result = build(tmp_path, "node", GO=go)

    assert result.returncode == 1
    assert "kube: the disk is full; free about 12 GB" in result.stderr.splitlines()[-1]


def test_what_is_not_built_is_named_with_the_command_that_builds_it(tmp_path: Path) -> None:
    result = build(tmp_path, "--where", "node")

    assert (result.returncode, result.stdout) == (1, "")
    assert (
        result.stderr == "kube, containerd, pause, fakegpu, coredns: not built; run tools/control-plane/build.py node\n"
    )


def test_programs_that_somebody_brings_along_are_used(tmp_path: Path) -> None:
    brought = tmp_path / "assets"
    names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
    place_programs(brought, names)

    result = build(tmp_path, "--where", "api-server", KUBEBUILDER_ASSETS=str(brought))

    assert result.returncode == 0
    assert sorted(result.stdout.splitlines()) == [f"{name}\t{brought / name}" for name in names]


def test_an_unknown_group_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    result = build(tmp_path, "everything")

    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(
        "everything: no such group; name one of api-server, node, bench, queues"
    )
