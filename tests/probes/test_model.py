from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from probes.digest import AuditError
from probes.model import ModelRef, load, parse
from probes.site import Site, tap

Maker = Callable[..., Path]
IDS = torch.arange(20, 60)[None]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_model_in_memory_comes_back_untouched(family: str, tmp_path: Path) -> None:
    hf, tokenizer = tiny.model(family), tiny.tokenizer(family)
    hf.train()
    first = next(iter(hf.parameters()))
    first.requires_grad_(False)
    hf.get_submodule(next(name for name, m in hf.named_modules() if "norm" in name or "ln_" in name)).eval()
    modes = [module.training for module in hf.modules()]
    flags = [parameter.requires_grad for parameter in hf.parameters()]
    kinds = [type(module) for module in hf.modules()]
    config = hf.config.to_dict()
    with torch.no_grad():
        before = hf.eval()(IDS).logits
    for module, mode in zip(hf.modules(), modes, strict=True):
        module.training = mode

    with load((hf, tokenizer)) as subject:
        assert not any(module.training for module in hf.modules())
        bridge = subject.bridge()
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(IDS, names_filter=["blocks.1.hook_attn_out"])
            tap(hf, Site(1, "attn_out")).hook(lambda _: None).remove()
        assert cache["blocks.1.hook_attn_out"].shape == (1, 40, tiny.WIDTH)
        assert subject.bridge() is bridge

    assert [module.training for module in hf.modules()] == modes
    assert [parameter.requires_grad for parameter in hf.parameters()] == flags
    assert [type(module) for module in hf.modules()] == kinds
    assert hf.config.to_dict() == config
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in hf.modules())
    with torch.no_grad():
        assert torch.equal(hf.eval()(IDS).logits, before)
    hf.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with load(str(tmp_path)) as again, torch.no_grad():
        assert torch.equal(again.hf(IDS).logits, before)


def test_wrapping_without_a_clone_would_have_spoiled_it(tmp_path: Path) -> None:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    hf = tiny.model("llama")
    build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config, tokenizer=None, model_name="spoiled")
    assert any("_original_component" in name for name in hf.state_dict())


def test_the_bridge_shares_every_tensor() -> None:
    hf = tiny.model("llama")
    with load((hf, tiny.tokenizer("llama"))) as subject:
        mine = {parameter.data_ptr() for parameter in hf.parameters()}
        assert mine <= {parameter.data_ptr() for parameter in subject.bridge().parameters()}


def test_modes_come_back_even_when_nobody_closes() -> None:
    hf = tiny.model("llama").train()
    subject = load((hf, tiny.tokenizer("llama")))
    assert not hf.training
    del subject
    gc.collect()
    assert hf.training


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_one_model_has_one_identity_however_it_is_loaded(family: str, checkpoint: Maker) -> None:
    with load(str(checkpoint(family))) as disk, load((tiny.model(family), tiny.tokenizer(family))) as memory:
        assert disk.weights == memory.weights
        assert disk.tokenizer_digest == memory.tokenizer_digest
        assert disk.template == memory.template == tiny.TEMPLATES[family]
        assert (disk.n_layers, disk.d_model, disk.vocab_size) == (tiny.LAYERS, tiny.WIDTH, tiny.VOCABULARY)
        assert (disk.dtype, str(disk.device), disk.revision) == ("float32", "cpu", None)
        assert not any(parameter.requires_grad for parameter in disk.hf.parameters())


def test_other_weights_have_another_identity() -> None:
    hf, tokenizer = tiny.model("llama"), tiny.tokenizer("llama")
    with load((hf, tokenizer)) as subject, load((tiny.model("llama", seed=1), tokenizer)) as other:
        first = subject.weights
        assert first != other.weights
        with torch.no_grad():
            hf.model.norm.weight[3] += 1.0
        assert subject.weights not in (first, other.weights)
        with torch.no_grad():
            hf.model.norm.weight[3] -= 1.0
        hf.config.rms_norm_eps = 0.5
        subject._weights = None
        assert subject.weights != first


def test_a_tokenizer_is_known_by_what_it_does() -> None:
    digests = set()
    for family in ("llama", "olmo2", "gpt2", "gemma2"):
        with load((tiny.model(family), tiny.tokenizer(family))) as subject:
            before = subject.tokenizer_digest
            subject.tokenizer(["a", "a b c"], padding=subject.tokenizer.pad_token is not None)
            subject.tokenizer.chat_template = None
            assert subject.tokenizer_digest == before
            digests.add(before)
    assert len(digests) == 4


def test_dtypes(checkpoint: Maker) -> None:
    folder = str(checkpoint("llama", dtype="bfloat16"))
    kept, cast = load(folder), load(folder, dtype="float32")
    assert (kept.dtype, cast.dtype) == ("bfloat16", "float32")
    assert kept.weights != cast.weights
    with pytest.raises(AuditError, match="in memory is bfloat16"):
        load((kept.hf, kept.tokenizer), dtype="float32")


def test_references(tmp_path: Path) -> None:
    assert parse(str(tmp_path)) == ModelRef("folder", str(tmp_path))
    assert parse("org/name") == ModelRef("hub", "org/name")
    assert parse("org/name@refs/pr/1") == ModelRef("hub", "org/name", "refs/pr/1")
    assert parse("gpt2") == ModelRef("hub", "gpt2")
    for odd in ("/no/such/folder", "./missing", "organism:base", "org/name/", "a b", ""):
        with pytest.raises(AuditError, match="neither a folder nor a hub id"):
            parse(odd)


def test_pickled_weights_are_refused_unless_asked_for(checkpoint: Maker, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = shutil.copytree(checkpoint("llama"), tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    with load(str(folder)) as subject:
        expected = subject.weights
    (folder / "model.safetensors").unlink()
    with pytest.raises(AuditError, match=r"only as a pickle \(pytorch_model.bin\).*--allow-pickle"):
        load(str(folder))
    with load(str(folder), allow_pickle=True) as subject:
        assert subject.weights == expected


def test_a_malicious_pickle_does_not_run_even_when_asked_for(checkpoint: Maker, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "evil")
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    torch.save({"w": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(AuditError, match="holds more than tensors"):
        load(str(folder), allow_pickle=True)
    assert not marker.exists()


def test_remote_code_is_refused_and_never_run(checkpoint: Maker, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint("llama"), tmp_path / "remote")
    marker = tmp_path / "ran"
    (folder / "odd.py").write_text(f"import os; os.mkdir({str(marker)!r})\n")
    config = json.loads((folder / "config.json").read_text())
    maps = {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.Odd"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "odd", "auto_map": maps}))
    with pytest.raises(AuditError, match=r"wants to run its own code \(odd.Odd\)"):
        load(str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "odd"}))
    with pytest.raises(AuditError, match="unknown model type 'odd'"):
        load(str(folder))
    # A model type that transformers ships is loaded with its own class, whatever the map says.
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": maps}))
    assert load(str(folder)).n_layers == tiny.LAYERS
    assert not marker.exists()


SPOILT = ["no config", "bad config", "no weights", "truncated", "missing tensor", "no tokenizer"]


@pytest.mark.parametrize("spoil", SPOILT)
def test_broken_checkpoints_are_explained(spoil: str, checkpoint: Maker, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(checkpoint("llama"), tmp_path / "broken")
    weights = folder / "model.safetensors"
    if spoil == "no config":
        (folder / "config.json").unlink()
    elif spoil == "bad config":
        (folder / "config.json").write_text("{")
    elif spoil == "no weights":
        weights.unlink()
    elif spoil == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif spoil == "missing tensor":
        tensors = load_file(weights)
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    else:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink()
    says = {
        "no config": "holds no config.json",
        "no weights": "holds no weights",
        "missing tensor": r"lacks 1 tensors \(model.layers.1.mlp.up_proj.weight\)",
    }
    with pytest.raises(AuditError, match=says.get(spoil, "cannot be loaded")) as caught:
        load(str(folder))
    assert str(folder) in str(caught.value)


def test_a_foreign_tokenizer_and_a_wrong_device_are_refused() -> None:
    hf, tokenizer = tiny.model("llama"), tiny.tokenizer("llama")
    tokenizer.add_tokens([f"<extra{i}>" for i in range(3)])
    with pytest.raises(AuditError, match="knows token 514, its model 512"):
        load((hf, tokenizer))
    assert not hf.training
    with pytest.raises(AuditError, match="'gpu'"):
        load(str(Path(__file__).parent), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(AuditError, match="without a usable GPU"):
            load((hf, tiny.tokenizer("llama")), device="cuda")


HUB = """
import http.server, json, sys, threading
class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        gated, revision = "gated" in self.path, "revision/none" in self.path
        code, word = (403, "GatedRepo") if gated else (404, "RevisionNotFound") if revision else (401, "RepoNotFound")
        self.send_response(code); self.send_header("X-Error-Code", word); self.send_header("Content-Length", "0")
        self.end_headers()
    do_GET = do_HEAD
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
import os
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
threading.Thread(target=server.serve_forever, daemon=True).start()
from probes.model import load
def say(ref, **options):
    try:
        with load(ref, **options) as subject: return [subject.weights, subject.revision, subject.ref.name]
    except Exception as error: return [type(error).__name__, str(error)]
told = {"gated": say("org/gated"), "missing": say("org/missing"), "revision": say("org/name@none"),
        "offline": say("org/missing", offline=True), "cached": say("org/tiny", offline=True),
        "pinned": say("org/tiny@" + "c" * 40, offline=True), "pickled": say("org/pickled", offline=True)}
server.shutdown(); server.server_close()
told["unreachable"] = say("org/missing")
told["cached-unreachable"] = say("org/tiny")
print(json.dumps(told))
"""


def test_hub_ids_missing_gated_offline_and_cached(checkpoint: Maker, tmp_path: Path) -> None:
    for name, files in (("tiny", "*"), ("pickled", "*.json")):
        cached = tmp_path / "hub" / f"models--org--{name}"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("c" * 40)
        (cached / "snapshots" / ("c" * 40)).mkdir(parents=True)
        for file in checkpoint("llama").glob(files):
            shutil.copy(file, cached / "snapshots" / ("c" * 40) / file.name)
    env = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE" and "proxy" not in k.lower()}
    env |= {"HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", HUB], cwd=root, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    says = {
        "gated": "org/gated is gated. Expected access to it. Accept its terms",
        "missing": "org/missing is neither a folder nor a model on the hub",
        "revision": "org/name has no revision 'none'",
        "offline": "org/missing is not in the local cache. Expected a cached copy, being offline",
        "pickled": "org/pickled has no safetensors weights",
        "unreachable": "The hub cannot be reached for org/missing",
    }
    for case, text in says.items():
        assert told[case][0] == "AuditError" and text in told[case][1], (case, told[case])
    assert "--allow-pickle" in told["pickled"][1]
    with load(str(checkpoint("llama"))) as subject:
        for case in ("cached", "pinned", "cached-unreachable"):
            assert told[case] == [subject.weights, "c" * 40, "org/tiny"], told[case]
