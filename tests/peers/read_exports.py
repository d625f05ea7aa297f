"""Run by the peers' Python: reads what gpt2jax wrote, with transformers, TensorFlow and torch themselves.

    python read_exports.py FOLDER

FOLDER holds huggingface/, openai/, nanogpt/, tokens.npy and texts.json. Writes there peers.npz and peers.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import torch
import transformers


def main() -> None:
    folder = Path(sys.argv[1])
    found = {}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "huggingface").eval()
    tokens = torch.from_numpy(np.load(folder / "tokens.npy")).long()
    with torch.no_grad():
        found["huggingface/logits"] = model(tokens).logits.numpy()
    # With the mask given: else transformers takes tokens that happen to be pad_token_id for padding.
    found["huggingface/greedy"] = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=8,
        pad_token_id=0,
        eos_token_id=None,
    ).numpy()
    stops = list(range(3, model.config.vocab_size, 9))
    for penalty in (-1.0, 0.0, 1.0, 2.0):
        found[f"huggingface/beams/{penalty}"] = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=10,
            num_beams=4,
            num_return_sequences=4,
            length_penalty=penalty,
            early_stopping="never",
            pad_token_id=0,
            eos_token_id=stops,
        ).numpy()
    says: dict[str, object] = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "tensorflow": tf.__version__}
    }
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    if texts:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "huggingface")
        says["tokenizer"] = type(tokenizer).__name__
        says["ids"] = [tokenizer(text)["input_ids"] for text in texts]
        says["texts"] = [
            tokenizer.decode(ids, clean_up_tokenization_spaces=False)
            for ids in says["ids"]  # type: ignore[attr-defined]
        ]
        says["end_of_text"] = tokenizer.eos_token_id

    reader = tf.train.load_checkpoint(str(folder / "openai"))
    for name in reader.get_variable_to_shape_map():
        found[f"openai/{name}"] = reader.get_tensor(name)

    checkpoint = torch.load(folder / "nanogpt" / "ckpt.pt", weights_only=True)
    says["model_args"] = checkpoint["model_args"]
    state = checkpoint["model"]
    says["tied"] = state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    for name, value in state.items():
        found[f"nanogpt/{name}"] = value.numpy()
    mapped = torch.load(folder / "nanogpt" / "ckpt.pt", weights_only=True, mmap=True)["model"]
    says["mapped"] = all(torch.equal(value, mapped[name]) for name, value in state.items())

    np.savez(folder / "peers.npz", **found)
    (folder / "peers.json").write_text(json.dumps(says))


if __name__ == "__main__":
    main()
