from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.model import load
from probes.site import STREAMS, Site, blocks, sites, tap

TEXT = "The captain told the tax rider that all of the barley was in the north shed, and nobody asked the old miller."


@given(st.integers(0, 999), st.sampled_from(STREAMS))
def test_names_round_trip(layer: int, stream: str) -> None:
    site = Site(layer, stream)
    assert Site.parse(str(site)) == Site.parse(site.hook_name) == site


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_plain_hook_reads_what_transformer_lens_reads(family: str, checkpoint: Callable[..., Path]) -> None:
    with load(str(checkpoint(family))) as subject, torch.inference_mode():
        ids = torch.tensor([subject.tokenizer(TEXT)["input_ids"]])
        wanted = [site for stream in STREAMS for site in sites(stream, "all", subject.n_layers)]
        seen: dict[str, torch.Tensor] = {}
        handles = [tap(subject.hf, s).hook(lambda t, n=s.hook_name: seen.update({n: t.clone()})) for s in wanted]
        subject.hf(ids, use_cache=False)
        for handle in handles:
            handle.remove()
        bridge = subject.bridge()
        assert {site.hook_name for site in wanted} <= set(bridge.hook_dict)
        _, cache = bridge.run_with_cache(ids, names_filter=[site.hook_name for site in wanted])
        for site in wanted:
            assert seen[site.hook_name].shape == (1, ids.shape[1], tiny.WIDTH)
            torch.testing.assert_close(seen[site.hook_name], cache[site.hook_name], rtol=0, atol=1e-5)
        # The control: neighbours in the network are not what each other's name promises.
        for one, two in zip(wanted, wanted[1:], strict=False):
            if two.stream != "resid_post" or one.stream != "resid_pre":
                assert (seen[one.hook_name] - cache[two.hook_name]).abs().max() > 1e-3


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_branches_add_up_to_the_block(family: str) -> None:
    hf = tiny.model(family)
    seen: dict[str, torch.Tensor] = {}
    for stream in STREAMS:
        tap(hf, Site(1, stream)).hook(lambda t, n=stream: seen.update({n: t.detach().clone()}))
    hf(torch.arange(20, 60)[None])
    total = seen["resid_pre"] + seen["attn_out"] + seen["mlp_out"]
    torch.testing.assert_close(total, seen["resid_post"], rtol=0, atol=1e-5)


def test_a_multimodal_gemma_keeps_its_blocks_elsewhere() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Gemma3Config(
        text_config=tiny.config("gemma3_text").to_dict(),
        vision_config=vision | {"image_size": 16, "patch_size": 8},
        mm_tokens_per_image=4,
        image_token_index=500,
    )
    hf = Gemma3ForConditionalGeneration(config).eval()
    assert len(blocks(hf)) == tiny.LAYERS
    assert tap(hf, Site(2, "attn_out")).module is hf.model.language_model.layers[2].post_attention_layernorm


def test_an_unknown_architecture_is_named() -> None:
    from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

    odd = BloomForCausalLM(BloomConfig(vocab_size=16, hidden_size=8, n_layer=1, n_head=1))
    assert len(blocks(odd)) == 1
    with pytest.raises(AuditError, match="'bloom'.*resid_pre or resid_post"):
        tap(odd, Site(0, "attn_out"))
    small = MistralConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
    )
    assert len(blocks(MistralForCausalLM(small))) == 1
    with pytest.raises(AuditError, match="'Linear'"):
        blocks(torch.nn.Linear(2, 2))


def test_sites_are_sorted_and_validated() -> None:
    assert [str(site) for site in sites("resid_post", "all", 2)] == ["L0.resid_post", "L1.resid_post"]
    assert sites("mlp_out", [2, 0], 3) == (Site(0, "mlp_out"), Site(2, "mlp_out"))


@pytest.mark.parametrize(
    ("stream", "layers", "says"),
    [
        ("resid_mid", "all", "'resid_mid'.*resid_pre"),
        ("resid_post", "most", "'most'"),
        ("resid_post", [], "at least one"),
        ("resid_post", [1, 1], "each once"),
        ("resid_post", [3], "0 to 2"),
        ("resid_post", [-1], "Layer -1"),
        ("resid_post", [True], "Layer True"),
    ],
)
def test_wrong_sites_are_refused(stream: str, layers: object, says: str) -> None:
    with pytest.raises(AuditError, match=says):
        sites(stream, layers, 3)


@pytest.mark.parametrize("text", ["3.resid_post", "L3", "L-1.resid_post", "L3.hook_resid_post", "L1.resid_mid", ""])
def test_wrong_names_are_refused(text: str) -> None:
    with pytest.raises(AuditError):
        Site.parse(text)


def test_a_layer_the_model_lacks_is_refused() -> None:
    with pytest.raises(AuditError, match="layers 0 to 2"):
        tap(tiny.model("llama"), Site(3, "resid_post"))
