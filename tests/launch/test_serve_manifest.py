"""The server's Deployment says what the server understands."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from gpt2jax.cli.parse import parse
from gpt2jax.cli.serve import HELP, ServeArgs
from gpt2jax.serve.server import KEYS, LOOPBACK
from tests.launch.check_manifests import check_served, served


def container(objects: list[Any]) -> Any:
    return objects[0]["spec"]["template"]["spec"]["containers"][0]


def test_its_command_is_one_and_its_end_is_waited_for() -> None:
    deployment, service = served()
    pod, own = deployment["spec"]["template"], container([deployment])
    assert own["command"][:2] == ["gpt2jax", "serve"]
    given = parse(ServeArgs, own["command"][2:], "serve", HELP, default=ServeArgs())
    assert given.model == "bucket/runs/gpt2"
    assert given.serving.host not in LOOPBACK
    assert own["ports"][0]["containerPort"] == given.serving.port
    wait = own["lifecycle"]["preStop"]["sleep"]["seconds"] + given.serving.timeout
    assert wait + 10 <= pod["spec"]["terminationGracePeriodSeconds"] <= wait + 60
    assert own["env"][0]["name"] == KEYS
    assert own["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "gpt2jax-keys", "key": "keys"}
    assert own["resources"]["limits"]["nvidia.com/gpu"] == 1
    probes = {name: own[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probes == {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}
    assert service["spec"]["selector"] == pod["metadata"]["labels"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == own["ports"][0]["name"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.update(readynessProbe={}), "'readynessProbe' was unexpected"),
        (lambda own: own["livenessProbe"].update(periodSeconds="10"), "periodSeconds: '10' is not of type"),
        (lambda own: own["lifecycle"]["preStop"].update(sleeps=3), "'sleeps' was unexpected"),
    ],
)
def test_one_that_is_wrong_is_noticed(change: Callable[[Any], None], message: str) -> None:
    objects = copy.deepcopy(served())
    change(container(objects))
    assert message in "\n".join(check_served(objects))
    assert check_served(served()) == []
