"""Makes tests/golden/weights/flax/flax_model.msgpack with Hugging Face's Flax GPT-2, which transformers 5 removed.

    python -m venv v && v/bin/pip install torch==2.13.0 transformers==4.44.2 jax==0.4.30 jaxlib==0.4.30 flax==0.8.5 \
        "numpy<2" "scipy<1.13"
    v/bin/python tests/golden/make_flax_file.py
"""

import shutil
from pathlib import Path

from transformers import FlaxGPT2LMHeadModel

OUT = Path(__file__).parent / "weights"


def main() -> None:
    shutil.rmtree(OUT / "flax", ignore_errors=True)
    FlaxGPT2LMHeadModel.from_pretrained(OUT / "safetensors", from_pt=True).save_pretrained(OUT / "flax")
    shutil.copy(OUT / "safetensors" / "config.json", OUT / "flax")
    for extra in OUT.glob("*/generation_config.json"):
        extra.unlink()


if __name__ == "__main__":
    main()
