"""The peer's side of serve_peer.py: transformers' own generate behind FastAPI, one text in a call.

    python torch_serve.py MODEL PORT locked|threaded

``locked`` writes one text after the other; ``threaded`` as many at once as threads of the server ask. Needs torch,
transformers, fastapi and uvicorn only.
"""

import contextlib
import sys
import threading
from typing import Any

import fastapi
import torch
import transformers
import uvicorn


def make_app(name: str, *, locked: bool) -> fastapi.FastAPI:
    model = transformers.AutoModelForCausalLM.from_pretrained(name).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    lock = threading.Lock() if locked else contextlib.nullcontext()
    app = fastapi.FastAPI()

    @app.post("/v1/completions")
    def complete(body: dict[str, Any]) -> dict[str, Any]:
        given = tokenizer(body["prompt"], return_tensors="pt")
        with lock, torch.inference_mode():
            out = model.generate(
                **given,
                do_sample=False,
                max_new_tokens=body["max_tokens"],
                min_new_tokens=body["max_tokens"],
                pad_token_id=0,
            )
        new = out[0, given["input_ids"].shape[1] :]
        return {"choices": [{"text": tokenizer.decode(new)}], "usage": {"completion_tokens": len(new)}}

    return app


def main() -> None:
    transformers.logging.set_verbosity_error()
    app = make_app(sys.argv[1], locked=sys.argv[3] == "locked")
    uvicorn.run(app, port=int(sys.argv[2]), log_level="error")


if __name__ == "__main__":
    main()
