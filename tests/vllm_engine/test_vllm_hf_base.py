"""The conversion of a GGUF base model to Hugging Face's format, from which vLLM loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import pytest

from mongars.core.errors import ProvisioningFailed
from mongars.engines.provisioning.spec import ModelFile
from mongars.engines.vllm.hf_base import ensure_hf_base

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.vllm


def test_a_model_without_needed_metadata_is_refused_by_the_fields_name(tmp_path: Path) -> None:
    """A GGUF file that lacks a field the conversion needs fails with the field's name; no folder is left behind."""
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = ModelFile(
        role="general",
        name="m",
        path=path,
        digest="0" * 64,
        size=path.stat().st_size,
        source="file",
    )
    with pytest.raises(ProvisioningFailed, match=r"no 'llama\.attention\.head_count'"):
        ensure_hf_base(tmp_path / "cache", model, waiting=lambda: None)
    assert not (tmp_path / "cache" / "hf").exists()
