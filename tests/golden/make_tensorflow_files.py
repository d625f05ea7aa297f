"""Makes the TensorFlow checkpoints in tests/golden/weights, with TensorFlow itself.

    python -m venv v && v/bin/pip install tensorflow-cpu==2.21.0 safetensors
    v/bin/python tests/golden/make_tensorflow_files.py

The model of make_torch_files.py under OpenAI's names: in two data files, in float16, in bfloat16, and with one
variable in slices, which is to be refused.
"""

import json
import shutil
from pathlib import Path

import tensorflow as tf
from safetensors.numpy import load_file

OUT = Path(__file__).parent / "weights"


def openai_names() -> dict[str, tf.Tensor]:
    """From Hugging Face's tensors, whose kernels have OpenAI's layout without its leading axis."""
    tensors = load_file(OUT / "safetensors" / "model.safetensors")
    named = {}
    for name, value in tensors.items():
        parts = name.removeprefix("transformer.").split(".")
        if parts[-1] == "weight":
            norm = parts[-2].startswith("ln_")
            parts[-1] = "g" if norm else "w"
            value = value if norm or parts[0] in ("wte", "wpe") else value[None]
        else:
            parts[-1] = "b"
        if parts[0] in ("wte", "wpe"):
            parts = parts[:1]
        if parts[0] == "h":
            parts[:2] = [f"h{parts[1]}"]
        named["model/" + "/".join(parts)] = tf.constant(value)
    return named


def save(prefix: str, tensors: dict[str, tf.Tensor], sliced: str = "") -> None:
    """``tensors`` as a bundle; the one named ``sliced`` in two halves of its rows."""
    rows = [(name, "", value) for name, value in sorted(tensors.items()) if name != sliced]
    if sliced:
        for half, value in enumerate(tf.split(tensors[sliced], 2)):
            rows.append((sliced, f"8 8 {4 * half},4:-", value))
    names, slices, values = zip(*rows, strict=True)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=slices, tensors=values)


def main() -> None:
    named = openai_names()
    for folder, dtype in (
        ("tf_sharded", tf.float32),
        ("tf_float16", tf.float16),
        ("tf_bfloat16", tf.bfloat16),
        ("tf_sliced", tf.float32),
    ):
        shutil.rmtree(OUT / folder, ignore_errors=True)
        (OUT / folder).mkdir(parents=True)
        prefix = str(OUT / folder / "model.ckpt")
        cast = {name: tf.cast(value, dtype) for name, value in named.items()}
        if folder == "tf_sharded":
            halves = [dict(sorted(cast.items())[half::2]) for half in range(2)]
            parts = [f"{prefix}_part{half}" for half in range(2)]
            for part, half in zip(parts, halves, strict=True):
                save(part, half)
            tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=parts, destination_prefix=prefix, delete_old_dirs=False)
        else:
            save(prefix, cast, "model/wpe" if folder == "tf_sliced" else "")
        state = 'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
        (OUT / folder / "checkpoint").write_text(state)
        hparams = {"n_vocab": 20, "n_ctx": 8, "n_embd": 8, "n_head": 2, "n_layer": 2}
        (OUT / folder / "hparams.json").write_text(json.dumps(hparams))


if __name__ == "__main__":
    main()
