"""The schema check passes what is there, and notices what is not right."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.launch.check_manifests import LAUNCH, check_job_set, check_sky_task, filled_in, main


def test_the_manifests_are_what_their_readers_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module", params=["gpu", "tpu"])
def job_set(request: pytest.FixtureRequest) -> dict[str, Any]:
    return filled_in(request.param)


def pod(manifest: dict[str, Any]) -> Any:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def put(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("jobset.x-k8s.io/v1", "apiVersion"), "apiVersion: "),
        (put({}, "spec", "failurepolicy"), "'failurepolicy' was unexpected"),
        (put(3, "spec", "failurePolicy", "maxRestart"), "'maxRestart' was unexpected"),
        (put("5", "spec", "failurePolicy", "maxRestarts"), "'5' is not of type 'integer'"),
        (put("Recreated", "spec", "failurePolicy", "restartStrategy"), "'Recreated' is not one of"),
        (lambda m: put({}, "templates")(m["spec"]["replicatedJobs"][0]), "'templates' was unexpected"),
        (
            lambda m: put(2, "completion")(m["spec"]["replicatedJobs"][0]["template"]["spec"]),
            "'completion' was unexpected",
        ),
        (lambda m: put("60", "terminationGracePeriodSeconds")(pod(m)), "terminationGracePeriodSeconds: '60' is not"),
        (lambda m: put("x", "imagePulPolicy")(pod(m)["containers"][0]), "'imagePulPolicy' was unexpected"),
        (lambda m: put("gpt2jax", "command")(pod(m)["containers"][0]), "command: 'gpt2jax' is not of type"),
        (lambda m: put(["${COMMAND}"], "command")(pod(m)["containers"][0]), "something is not filled in"),
    ],
)
def test_a_job_set_that_is_wrong_is_noticed(
    job_set: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    manifest = copy.deepcopy(job_set)
    change(manifest)
    assert message in "\n".join(check_job_set(manifest))
    assert check_job_set(job_set) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(2, "numnodes"), "'numnodes' was unexpected"),
        (put("2", "num_nodes"), "num_nodes: '2' is not of type 'integer'"),
        (put(True, "resources", "spot"), "'spot' was unexpected"),
        (put([256], "resources", "job_recovery", "recover_on_exit_codes"), "256 is greater than the maximum"),
        (put("mount", "file_mounts", "/bucket", "mode"), "'mount' is not one of"),
        (put({"1A": "x"}, "envs"), "envs: '1A' does not match"),
    ],
)
def test_a_task_that_is_wrong_is_noticed(change: Callable[[dict[str, Any]], None], message: str) -> None:
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert check_sky_task(task) == []
    change(task)
    assert message in "\n".join(check_sky_task(task))
