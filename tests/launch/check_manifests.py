"""Whether the manifests in launch/ are what Kubernetes, JobSet and SkyPilot read.

`python -m tests.launch.check_manifests` (in `make check`) holds Job templates, the server's Deployment and its Service
against the schemas that Kubernetes publishes. JobSet's and SkyPilot's are written down here, as far as the manifests
use them, from the v1alpha2 types of JobSet 0.8 and later, and from the task, resources and storage schemas of SkyPilot
0.14. Every object of theirs is closed: a key that is misspelt is an error, as is one that nobody has looked up.
"""

import os
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

LAUNCH = Path(__file__).parents[2] / "launch"
KUBERNETES = "1.33"  # GKE's stable channel is not older.
SETTINGS = {"IMAGE": "registry/gpt2jax:1", "BUCKET": "my-bucket", "SPOT": "1"}
SERVED = SETTINGS | {"MODEL": "runs/gpt2", "ACCELERATOR": "nvidia-l4"}
COMMAND = ["gpt2jax", "train", "bucket/settings.yaml"]


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def _several(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
STRINGS = {"type": "object", "additionalProperties": TEXT}
COUNT = {"type": "integer", "minimum": 1}
DNS_LABEL = {"type": "string", "pattern": "^[a-z]([a-z0-9-]*[a-z0-9])?$"}
STATUS = {"type": "integer", "minimum": 0, "maximum": 255}

JOB_SET = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=_closed(["name"], name=DNS_LABEL, namespace=TEXT, labels=STRINGS, annotations=STRINGS),
    spec=_closed(
        ["replicatedJobs"],
        suspend=FLAG,
        ttlSecondsAfterFinished={"type": "integer", "minimum": 0},
        network=_closed([], enableDNSHostnames=FLAG, subdomain=TEXT, publishNotReadyAddresses=FLAG),
        failurePolicy=_closed(
            [],
            maxRestarts={"type": "integer", "minimum": 0},
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules=_several(
                _closed(
                    ["name", "action"],
                    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    onJobFailureReasons=_several(
                        {"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "PodFailurePolicy"]}
                    ),
                    targetReplicatedJobs=_several(TEXT),
                )
            ),
        ),
        replicatedJobs=_several(
            _closed(["name", "template"], name=DNS_LABEL, replicas=COUNT, template={"type": "object"})
        ),
    ),
)

SKY_TASK = _closed(
    ["resources", "run"],
    name=TEXT,
    workdir=TEXT,
    num_nodes=COUNT,
    resources=_closed(
        [],
        infra=TEXT,
        accelerators=TEXT,
        accelerator_args=_closed([], runtime_version=TEXT),
        cpus={"type": ["string", "number"]},
        memory={"type": ["string", "number"]},
        disk_size={"type": ["string", "integer"]},
        use_spot=FLAG,
        job_recovery=_closed(
            [],
            strategy=TEXT,
            max_restarts_on_errors={"type": "integer", "minimum": 0},
            recover_on_exit_codes=_several(STATUS),
        ),
    ),
    envs={
        "type": "object",
        "patternProperties": {"^[a-zA-Z_][a-zA-Z0-9_]*$": {"type": ["string", "null"]}},
        "additionalProperties": False,
    },
    file_mounts={
        "type": "object",
        "additionalProperties": _closed(
            ["source"], source=TEXT, store=TEXT, mode={"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]}
        ),
    },
    setup=TEXT,
    run=TEXT,
)


def filled_in(kind: str, command: list[str] = COMMAND, **variables: str) -> dict[str, Any]:
    """The JobSet that launch/gke.sh would apply."""
    script = [str(LAUNCH / "gke.sh"), "--dry-run", "apply", kind, *command]
    env = {"PATH": os.environ["PATH"]} | SETTINGS | variables  # No settings of a launch in progress.
    done = subprocess.run(script, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"gke_{kind}.yaml: {done.stderr.strip()}")
    return dict(yaml.safe_load(done.stdout))


def check_job_set(manifest: Any) -> list[str]:
    """What is wrong with it, a line for each."""
    found = _against(JOB_SET, manifest)
    if found:
        return found
    if "${" in yaml.safe_dump(manifest):
        found.append("something is not filled in: ${...}")
    for job in manifest["spec"]["replicatedJobs"]:
        wrapped = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}
        try:
            kubernetes_validate.validate(wrapped, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            found.append(f"spec.replicatedJobs.{job['name']}.template.{where}: {error.message}")
    return found


def served() -> list[Any]:
    """The objects of launch/serve_gpu.yaml, filled in as envsubst does."""
    return list(yaml.safe_load_all(string.Template((LAUNCH / "serve_gpu.yaml").read_text()).substitute(SERVED)))


def check_served(objects: list[Any]) -> list[str]:
    """What is wrong with them, a line for each."""
    found = []
    for one in objects:
        try:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            found.append(f"{one.get('kind')}.{'.'.join(str(part) for part in error.path)}: {error.message}")
    return found


def check_sky_task(task: Any) -> list[str]:
    """What is wrong with it, a line for each."""
    return _against(SKY_TASK, task)


def _against(schema: dict[str, Any], value: Any) -> list[str]:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    return [f"{'.'.join(str(part) for part in error.path)}: {error.message}" for error in errors]


def main() -> int:
    found = []
    for kind in ("gpu", "tpu"):
        found += [f"launch/gke_{kind}.yaml: {line}" for line in check_job_set(filled_in(kind))]
    found += [f"launch/serve_gpu.yaml: {line}" for line in check_served(served())]
    for name in ("sky.yaml", "sky_tpu.yaml"):
        found += [f"launch/{name}: {line}" for line in check_sky_task(yaml.safe_load((LAUNCH / name).read_text()))]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
