"""launch/gke.sh and its JobSets: the manifests, the kubectl commands, and what the pods would run, run here."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import free_port
from tests.launch.check_manifests import filled_in
from tests.launch.helpers import LAUNCH, TRAIN, Imitation, prepare_folder, run, run_together

SCRIPT = str(LAUNCH / "gke.sh")
GIVEN = {"IMAGE": "registry/gpt2jax:1", "BUCKET": "my-bucket"}


def pods(manifest: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The pods' template, and how many there are in all."""
    [job] = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completions"] == spec["parallelism"]
    return spec["template"]["spec"], job["replicas"] * spec["completions"]


def variables(container: dict[str, Any], index: int) -> dict[str, str]:
    """What Kubernetes would put into the environment of the pod with this index, beside its own variables."""
    found = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": str(index)}
    annotations = {"metadata.annotations['batch.kubernetes.io/job-completion-index']": str(index)}
    for row in container["env"]:
        found[row["name"]] = row["value"] if "value" in row else annotations[row["valueFrom"]["fieldRef"]["fieldPath"]]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_folder(tmp_path_factory.mktemp("gke"))


@pytest.fixture
def kubectl(tmp_path: Path) -> Imitation:
    imitation = Imitation(tmp_path)
    imitation.add("kubectl", "print(sys.stdin.read() if '--filename=-' in arguments else '')")
    return imitation


def test_the_pods_of_the_gpu_manifest_train_as_one_run(folder: Path, kubectl: Imitation) -> None:
    manifest = filled_in("gpu", [*TRAIN, "--training.run-dir", "pods"], NAME="run", NODES="2")
    pod, count = pods(manifest)
    [container] = pod["containers"]
    assert count == 2
    assert variables(container, 0)["JAX_COORDINATOR_ADDRESS"] == "run-train-0-0.run:8476"
    here = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}"}  # That name is known in the cluster alone.
    printed = run_together(
        [(container["command"], kubectl.environment(**variables(container, index) | here)) for index in range(count)],
        folder,
    )
    assert "2 processes (environment), 4 devices, 2 on each" in printed[0]
    assert (folder / "pods" / "report.md").exists()


def test_a_pod_of_the_gpu_manifest_without_its_variables_does_not_train_alone(folder: Path, kubectl: Imitation) -> None:
    [container] = pods(filled_in("gpu", TRAIN, NODES="2"))[0]["containers"]
    bare = {name: value for name, value in variables(container, 1).items() if not name.startswith("JAX_")}
    done = run(container["command"], folder, kubectl.environment(**bare))
    assert (done.returncode, done.stdout) == (2, "")
    assert "gpt2jax: JOB_COMPLETION_INDEX: 1: one of several pods, but not of how many" in done.stderr


@pytest.mark.parametrize(
    ("topology", "chips", "slices", "hosts"), [("4x4", "4", "1", 4), ("2x2x4", "4", "3", 4), ("2x4", "8", "1", 1)]
)
def test_the_tpu_manifest_has_a_pod_for_each_host(topology: str, chips: str, slices: str, hosts: int) -> None:
    manifest = filled_in("tpu", TOPOLOGY=topology, CHIPS=chips, SLICES=slices)
    pod, count = pods(manifest)
    assert count == hosts * int(slices)
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology
    assert pod["containers"][0]["resources"] == {"limits": {"google.com/tpu": int(chips)}}


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_what_was_stopped_starts_again_and_is_not_counted_as_a_failure(kind: str) -> None:
    spec = filled_in(kind)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    [container] = job["template"]["spec"]["containers"]
    assert {"name": "GPT2JAX_STOPPED_STATUS", "value": "75"} in container["env"]
    disrupted, stopped = job["podFailurePolicy"]["rules"]
    assert stopped["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [75]}
    assert {disrupted["action"], stopped["action"]} == {"FailJob"}
    [rule] = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    assert (job["backoffLimit"], spec["failurePolicy"]["restartStrategy"]) == (0, "BlockingRecreate")


def test_arguments_arrive_as_they_were_given() -> None:
    """$$( is how Kubernetes is told that no variable of its own is meant."""
    [container] = pods(filled_in("gpu", ["gpt2jax", 'a "b" \\c', "$(HOME) & ${NAME}", "*"]))[0]["containers"]
    assert container["command"] == ["gpt2jax", 'a "b" \\c', "$$(HOME) & ${NAME}", "*"]


def test_spot_nodes_only_where_they_are_asked_for() -> None:
    assert "cloud.google.com/gke-spot" in pods(filled_in("gpu", SPOT="1"))[0]["nodeSelector"]
    assert "cloud.google.com/gke-spot" not in pods(filled_in("gpu", SPOT="0"))[0]["nodeSelector"]


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (["apply", "gpu", "gpt2jax"], [["apply", "--filename=-"]]),
        (
            ["status"],
            [
                ["get", "jobset", "gpt2jax"],
                ["get", "pods", "--selector=jobset.sigs.k8s.io/jobset-name=gpt2jax", "--output=wide"],
            ],
        ),
        (
            ["logs"],
            [
                [
                    *("logs", "--follow", "--tail=100", "--container=train"),
                    "--selector=jobset.sigs.k8s.io/jobset-name=gpt2jax,jobset.sigs.k8s.io/job-index=0,"
                    "batch.kubernetes.io/job-completion-index=0",
                ]
            ],
        ),
        (["delete"], [["delete", "jobset", "gpt2jax", "--cascade=foreground"]]),
    ],
)
def test_a_verb_calls_kubectl_and_a_dry_run_does_not(
    tmp_path: Path, kubectl: Imitation, arguments: list[str], calls: list[list[str]]
) -> None:
    env = kubectl.environment(**GIVEN, NAMESPACE="ours")
    dry = run([SCRIPT, "--dry-run", *arguments], tmp_path, env)
    assert (dry.returncode, kubectl.calls("kubectl")) == (0, [])
    done = run([SCRIPT, *arguments], tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert kubectl.calls("kubectl") == [["--namespace=ours", *call] for call in calls]
    if arguments[0] == "apply":
        assert done.stdout.strip() == dry.stdout.strip()  # What kubectl was given.
    else:
        assert dry.stdout.splitlines()[0].startswith(f"kubectl --namespace=ours {calls[0][0]} ")


@pytest.mark.parametrize(
    ("arguments", "variables", "line"),
    [
        (["begin"], {}, "begin: unknown (apply, status, logs or delete)"),
        (["apply"], {}, "apply: '': should be gpu or tpu, then the command to run"),
        (["apply", "gpu"], {}, "apply gpu: nothing to run: launch/gke.sh apply gpu gpt2jax train bucket/SETTINGS.yaml"),
        (["apply", "gpu", "x"], {"IMAGE": ""}, "IMAGE: not set: the image to run"),
        (
            ["apply", "gpu", "x"],
            {"BUCKET": "gs://b"},
            "BUCKET: 'gs://b': should be the name of a bucket, without gs://",
        ),
        (["apply", "gpu", "x"], {"NODES": "two"}, "NODES: 'two': should be a number above 0"),
        (["apply", "gpu", "x"], {"SPOT": "yes"}, "SPOT: 'yes': should be 0 or 1"),
        (["apply", "tpu", "x"], {"TOPOLOGY": "4"}, "TOPOLOGY: '4': should be as 4x4 or 2x2x4"),
        (["apply", "tpu", "x"], {"CHIPS": "3"}, "CHIPS: 3 of a host do not divide the 16 of a slice of 4x4"),
        (["apply", "gpu", "a\nb"], {}, "'a"),
        (["status"], {"NAME": "My_run"}, "NAME: 'My_run': should be at most 40 lower-case letters, digits and dashes"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tmp_path: Path, kubectl: Imitation, arguments: list[str], variables: dict[str, str], line: str
) -> None:
    done = run([SCRIPT, *arguments], tmp_path, kubectl.environment(**GIVEN | variables))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"gke.sh: {line}")
    assert kubectl.calls("kubectl") == []
