"""Any Hugging Face text encoder: its families from tiny configurations, and folders in the hub's layout."""

from __future__ import annotations

import json
from typing import get_args

import pytest
import tokenizers
import torch
from tokenizers import models, pre_tokenizers, processors
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from clipkit.layers import Pool
from clipkit.models import load, save
from clipkit.optim import set_trainable
from clipkit.towers import HuggingFaceTower
from clipkit.types import ArgumentError

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
T5 = {"d_model": 32, "num_layers": 3, "num_heads": 2, "d_ff": 48, "d_kv": 16}
DEBERTA = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
}
FAMILIES = {
    "albert": {**SMALL, "embedding_size": 16},
    "bert": SMALL,
    "clip_text_model": SMALL,
    "deberta-v2": {**SMALL, **DEBERTA, "position_biased_input": False, "share_att_key": True},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48},
    "electra": {**SMALL, "embedding_size": 16},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2},
    "modernbert": SMALL,
    "mpnet": SMALL,
    "mt5": T5,
    "qwen2": {**SMALL, "num_key_value_heads": 1},
    "roberta": SMALL,
    "t5": T5,
    "xlm-roberta": SMALL,
}
CAUSAL = {"clip_text_model", "gpt2", "qwen2"}
CONTEXT = 20


def made(family, **arguments):
    torch.manual_seed(0)
    config = {"model_type": family, **FAMILIES[family], **arguments.pop("config", {})}
    return HuggingFaceTower(
        config=config, **{"tokenizer": "emoji", "context_length": CONTEXT, "pool": "mean", **arguments}
    )


@pytest.fixture
def captions():
    """Ids and mask of three captions, the second one padded."""
    tokens = torch.randint(3, 8192, (3, 9), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[:, -1] = 1, 2
    tokens[1, 5:], tokens[1, 4] = 0, 2
    return tokens, tokens != 0


class Values(TorchDispatchMode):
    """How often the value of a tensor was asked for."""

    times = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def slow_pool(tokens, mask, pool):
    """Row by row; these captions end with their end token, so `eos` is the last."""
    rows = [row[flags] for row, flags in zip(tokens, mask, strict=True)]
    how = {"first": lambda x: x[0], "mean": lambda x: x.mean(0), "max": lambda x: x.max(0).values}
    return torch.stack([how.get(pool, lambda x: x[-1])(row) for row in rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_forward_backward_save_load(family, captions, tmp_path):
    tower, (tokens, mask) = made(family), captions
    assert tower.training and tower.width == 32
    assert tower.encoder.dtype == torch.float32
    tower.eval()
    with torch.no_grad():
        features = tower(tokens, mask)
    assert features.pooled.shape == (3, 32) and features.tokens.shape == (3, 9, 32) and features.mask is mask
    save(tower, tmp_path / "tower.clip")
    other = load(tmp_path / "tower.clip")
    with torch.no_grad():
        assert torch.equal(other(tokens, mask).pooled, features.pooled)
    assert other.tokenizer == tower.tokenizer and other.context_length == CONTEXT
    tower.train()(tokens, mask).pooled.square().sum().backward()
    assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(family, captions):
    tower, (tokens, mask) = made(family).eval(), captions
    longer, more = nn.functional.pad(tokens, (0, 7)), nn.functional.pad(mask, (0, 7))
    with torch.no_grad():
        pooled, padded = tower(tokens, mask).pooled, tower(longer, more).pooled
        alone = tower(tokens[1:2, :5], mask[1:2, :5]).pooled
    torch.testing.assert_close(padded, pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, pooled[1:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_is_told_of_padding_changes_nothing(family, captions):
    """Nor does it ask for values, which on a GPU is to wait, but for those that take no other form."""
    tower, (tokens, mask) = made(family).eval(), captions
    with torch.no_grad():
        by_rows = tower.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        with Values() as asked:
            found = tower(tokens, mask).tokens
    torch.testing.assert_close(found[mask], by_rows[mask], rtol=1e-4, atol=1e-5)
    assert (asked.times > 0) == (family in ("mpnet", "modernbert"))


def test_a_window_that_padding_leaks_into_is_told_of_rows():
    """Keys alone would have local attention see as far as global attention does."""
    config = {"local_attention": 4}
    tokens = torch.arange(3, 3 + 2 * CONTEXT).view(2, CONTEXT)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 12:] = False
    tower = made("modernbert", config=config).eval()
    with torch.no_grad():
        by_rows = tower.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(tower(tokens, mask).tokens[mask], by_rows[mask], rtol=1e-4, atol=1e-5)
        by_keys = tower.encoder(input_ids=tokens, attention_mask=mask[:, None, None]).last_hidden_state
    assert not torch.allclose(by_keys[mask], by_rows[mask], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", sorted(CAUSAL | {"bert", "modernbert", "t5"}))
def test_padding_changes_no_gradient(family, captions):
    """Captions cut to the longest of their batch against the same padded to the whole context."""
    tower, (tokens, mask) = made(family).double().eval(), captions
    weights, found = [p for p in tower.parameters() if p.requires_grad], []
    for more in (0, CONTEXT - tokens.shape[1]):
        pooled = tower(nn.functional.pad(tokens, (0, more)), nn.functional.pad(mask, (0, more))).pooled
        found.append(torch.autograd.grad(pooled.square().sum(), weights, materialize_grads=True))
    for trimmed, whole in zip(*found, strict=True):
        torch.testing.assert_close(trimmed, whole, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pool", get_args(Pool))
def test_every_pooling_against_a_loop(family, pool, captions):
    if pool == "first" and family in CAUSAL:
        with pytest.raises(ArgumentError, match=f"the first token of a {family} does not see the last; use `mean`"):
            made(family, pool=pool)
        return
    tower, (tokens, mask) = made(family, pool=pool).eval(), captions
    with torch.no_grad():
        features = tower(tokens, mask)
    torch.testing.assert_close(features.pooled, slow_pool(features.tokens, mask, pool))


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks(family, captions):
    tower = made(family)
    blocks = tower.blocks()
    assert len(blocks) == (2 if family == "albert" else 4)  # ALBERT's layers are one
    names = {id(parameter): name for name, parameter in tower.named_parameters()}
    assert sorted(id(p) for block in blocks for p in block) == sorted(names)
    stem = {names[id(parameter)] for parameter in blocks[0]}
    tables = [name for name, module in tower.named_modules() if isinstance(module, nn.Embedding)]
    shared = [name for name in tables if "layer." not in name and "block." not in name]
    assert shared and {f"{name}.weight" for name in shared} <= stem
    set_trainable(nn.ModuleDict({"text": tower}), {"text": 1})
    tower(*captions).pooled.square().sum().backward()
    assert {id(p) for p in tower.parameters() if p.grad is not None} == {id(p) for p in blocks[-1]}


def test_the_pooler_is_gone():
    assert not any("pooler" in name for name, _ in made("bert").named_parameters())


def test_only_the_encoder_of_an_encoder_decoder():
    assert not any("decoder" in name for name, _ in made("t5").named_parameters())


def test_a_configuration_takes_its_vocabulary_and_padding_from_the_tokenizer():
    tower = made("modernbert")  # whose own padding id is beyond this vocabulary
    assert (tower.config.vocab_size, tower.config.pad_token_id) == (8192, 0)
    larger = made("bert", config={"vocab_size": 9000, "pad_token_id": 5})
    assert larger.encoder.get_input_embeddings().weight.shape[0] == 9000 and larger.config.pad_token_id == 5


def test_the_attention_asked_for_travels(tmp_path):
    tower = made("bert", config={"attn_implementation": "eager"})
    save(tower, tmp_path / "tower.clip")
    assert load(tmp_path / "tower.clip").encoder.config._attn_implementation == "eager"


def test_positions_that_begin_beyond_the_padding_id():
    config = {"max_position_embeddings": CONTEXT + 2, "pad_token_id": 1}
    assert made("roberta", config=config, context_length=CONTEXT + 0).width == 32
    with pytest.raises(
        ArgumentError, match="21 tokens do not fit the 22 positions of this roberta, some of which"
    ) as caught:
        made("roberta", config=config, context_length=CONTEXT + 1)
    assert caught.value.argument == "context_length"


@pytest.mark.parametrize("family", ["bert", "gpt2", "clip_text_model", "distilbert", "mpnet"])
def test_a_context_that_the_positions_do_not_reach(family):
    with pytest.raises(ArgumentError, match=f"40 tokens do not fit the 32 positions of this {family}") as caught:
        made(family, config={"max_position_embeddings": 32}, context_length=40)
    assert caught.value.argument == "context_length"


@pytest.mark.parametrize(
    ("arguments", "argument", "message"),
    [
        ({}, "name", "give either `name`"),
        ({"name": "x", "config": {"model_type": "bert"}}, "name", "give either `name`"),
        ({"config": {"model_type": "bert"}}, "tokenizer", "name one, such as `emoji`"),
        ({"config": {"hidden_size": 32}}, "config", "it needs a `model_type`"),
        ({"config": {"model_type": "brt"}}, "config.model_type", "no model_type 'brt'; did you mean 'bert'"),
        ({"config": {"model_type": ["bert"]}}, "config.model_type", r"no model_type \['bert'\]"),
        ({"config": {"model_type": "bert", "hiden_size": 32}}, "config.hiden_size", "did you mean 'hidden_size'"),
        ({"config": {"model_type": "bert", "n_layer": 2}}, "config.n_layer", "a bert has no 'n_layer'"),
        ({"config": {**SMALL, "model_type": "bert", "hidden_act": "gelux"}}, "config.hidden_act", "knows no 'gelux'"),
        ({"config": {**SMALL, "model_type": "bert", "num_attention_heads": 5}}, "config", "cannot make a 'bert'"),
        ({"config": {**SMALL, "model_type": "bert", "vocab_size": 99}}, "tokenizer", "99 rows"),
        ({"config": {**SMALL, "model_type": "vit"}}, "config", "a vit"),
        ({"config": {**SMALL, "model_type": "bert"}, "pool": "middle"}, "pool", "'middle' is not one of first"),
        ({"config": {**SMALL, "model_type": "bert"}, "pad": "left"}, "pad", "'left' is not one of `longest`"),
        ({"config": {**SMALL, "model_type": "convbert"}}, "pad", "padding changes what a convbert makes"),
        ({"name": "/no/such/folder"}, "name", "no folder here and no model on the hub"),
        ({"name": "no-such/model"}, "name", "no folder here and no model on the hub"),
    ],
)
def test_what_is_refused(arguments, argument, message):
    if "config" in arguments and message != "name one, such as `emoji`":
        arguments = {"tokenizer": "emoji", **arguments}
    with pytest.raises(ArgumentError, match=message) as caught:
        HuggingFaceTower(**arguments)
    assert caught.value.argument == argument


def test_a_wrong_type_in_a_configuration():
    with pytest.raises(ArgumentError, match=r"cannot make a 'bert' of it: .*got str") as caught:
        HuggingFaceTower(config={**SMALL, "model_type": "bert", "hidden_size": "wide"}, tokenizer="emoji")
    # the versions of transformers that check a configuration say the key, those before stumble over the value
    assert caught.value.argument in ("config", "config.hidden_size")


def test_an_encoder_that_sees_padding_works_where_all_are_padded_alike():
    assert HuggingFaceTower(config={**SMALL, "model_type": "convbert"}, tokenizer="emoji", pad="max_length").width == 32


def test_check_refuses_before_anything_is_built(monkeypatch):
    monkeypatch.setattr(AutoModel, "from_config", None)
    bert = {"model_type": "bert", **SMALL}
    assert HuggingFaceTower.check(config=bert, tokenizer="emoji").vocab_size == 8192
    with pytest.raises(ArgumentError, match="99 rows"):
        HuggingFaceTower.check(config={**bert, "vocab_size": 99}, tokenizer="emoji")
    with pytest.raises(ArgumentError, match="context_length: 2"):
        HuggingFaceTower.check(config=bert, tokenizer="emoji", context_length=2)


def word_tokenizer(end=True):
    special = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}
    rust = tokenizers.Tokenizer(models.WordLevel({**special, "dog": 4, "red": 5, "cat": 6}, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "[CLS] $A [SEP]" if end else "[CLS] $A"
    rust.post_processor = processors.TemplateProcessing(single=template, special_tokens=list(special.items())[1:3])
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


def hub_folder(folder, family="bert", dtype=torch.float32, tokenizer=None, **config):
    """A model and its tokenizer as ``save_pretrained`` leaves them; the model."""
    torch.manual_seed(5)
    settings = AutoConfig.for_model(family, **{**FAMILIES[family], "vocab_size": 10, "pad_token_id": 0, **config})
    model = AutoModel.from_config(settings).to(dtype)
    model.save_pretrained(folder)
    (tokenizer or word_tokenizer()).save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "distilbert"])
def test_weights_from_a_folder_in_the_hubs_layout(family, tmp_path):
    model = hub_folder(tmp_path / "hub", family)
    tower = HuggingFaceTower(str(tmp_path / "hub"), context_length=8, pool="mean")
    encoder = model.get_encoder() if family == "t5" else model
    theirs = dict(encoder.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in tower.encoder.named_parameters())
    tokens, mask = torch.tensor([[1, 5, 4, 2], [1, 6, 2, 0]]), torch.tensor([[True] * 4, [True] * 3 + [False]])
    with torch.no_grad():
        expected = encoder.eval()(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(tower.eval()(tokens, mask).tokens[mask], expected[mask])
    save(tower, tmp_path / "tower.clip")
    (tmp_path / "hub").rename(tmp_path / "away")
    other = load(tmp_path / "tower.clip")
    with torch.no_grad():
        assert torch.equal(other(tokens, mask).pooled, tower(tokens, mask).pooled)


def test_only_the_configuration_of_a_folder(tmp_path):
    model = hub_folder(tmp_path / "hub")
    tower = HuggingFaceTower(str(tmp_path / "hub"), pretrained=False, context_length=8)
    assert tower.width == 32
    assert not torch.equal(tower.encoder.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_half_precision_weights_are_trained_in_fp32(tmp_path):
    hub_folder(tmp_path / "hub", dtype=torch.bfloat16)
    for pretrained in (True, False):
        tower = HuggingFaceTower(str(tmp_path / "hub"), pretrained=pretrained, context_length=8)
        assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}


def test_a_tokenizer_of_ones_own_for_a_folders_model(tmp_path):
    hub_folder(tmp_path / "hub", vocab_size=8192)
    tower = HuggingFaceTower(str(tmp_path / "hub"), tokenizer="emoji", context_length=8)
    assert tower.end_id == 2 and len(tower.tokenizer) > 1e5


def test_weights_that_lack_some_of_the_encoders_are_refused(tmp_path):
    hub_folder(tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    (tmp_path / "hub" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ArgumentError, match=r"lack 32 of this encoder's, encoder\.layer\.3") as caught:
        HuggingFaceTower(str(tmp_path / "hub"), context_length=8)
    assert caught.value.argument == "pretrained"


def test_a_folder_without_weights(tmp_path):
    hub_folder(tmp_path / "hub")
    (tmp_path / "hub" / "model.safetensors").unlink()
    with pytest.raises(ArgumentError, match="pretrained: the weights of"):
        HuggingFaceTower(str(tmp_path / "hub"), context_length=8)


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(ArgumentError, match=r"name: the folder .* has no config.json"):
        HuggingFaceTower(str(tmp_path))


def test_a_folder_of_an_unknown_model_type(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "brt"}))
    with pytest.raises(ArgumentError, match=r"name: .*brt"):
        HuggingFaceTower(str(tmp_path))


def test_a_repositorys_own_code_is_never_run(tmp_path):
    hub_folder(tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine", "AutoModel": "mine.Model"}}
    (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
    (tmp_path / "hub" / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ArgumentError, match="name: "):
        HuggingFaceTower(str(tmp_path / "hub"))


def test_a_vocabulary_that_does_not_fit(tmp_path):
    hub_folder(tmp_path / "hub", vocab_size=6)
    with pytest.raises(
        ArgumentError, match=r"tokenizer: its ids go up to 6, but .* has 6 rows \(vocab_size of .*hub\)"
    ):
        HuggingFaceTower(str(tmp_path / "hub"))


def test_eos_needs_a_tokenizer_with_an_end_token(tmp_path):
    hub_folder(tmp_path / "hub", tokenizer=word_tokenizer(end=False))
    with pytest.raises(ArgumentError, match="pool: `eos` needs a tokenizer that ends captions"):
        HuggingFaceTower(str(tmp_path / "hub"), pool="eos", context_length=8)
    assert HuggingFaceTower(str(tmp_path / "hub"), pool="last", context_length=8).end_id is None
