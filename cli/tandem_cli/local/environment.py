"""The environment of a container's process: what the image would hold, and what the pod says."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tandem_cli.local.volumes import translate
from tandem_operator.plan.objects import Container, EnvVar, Pod

PASSED_ON = ("HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_HOME", "CUDA_VISIBLE_DEVICES")
"""Variables of this machine that stand for what an image has built in."""


def container_environment(
    pod: Pod, container: Container, volumes: Mapping[str, Path], address: str, temporary: Path
) -> dict[str, str]:
    """Return all variables of one container; nothing else of the caller's environment gets in."""
    programs = Path(sys.executable).parent
    image = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    image |= {"PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}", "TMPDIR": str(temporary)}
    return image | {item.name: _value(pod, container, item, volumes, address) for item in container.env}


def _value(pod: Pod, container: Container, item: EnvVar, volumes: Mapping[str, Path], address: str) -> str:
    if item.value_from is None or item.value_from.field_ref is None:
        return translate(container, volumes, item.value or "")
    fields = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "status.podIP": address,
    }
    return fields[item.value_from.field_ref.field_path]
