"""clipkit's own text towers, against open_clip's where there is one."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch import nn

from clipkit.models import load, save
from clipkit.optim import set_trainable
from clipkit.tokens import Tokenizer
from clipkit.towers import BagOfWordsTower, ClipTextTower, SiglipTextTower
from clipkit.types import ArgumentError

SIZES = {"width": 32, "layers": 3, "heads": 2, "context_length": 10}
WORDS = ["a red heart", "face", "woman with a red and a blue hat by the sea"]

TOWERS = {
    "clip": lambda **more: ClipTextTower(**SIZES, **more),
    "siglip": lambda **more: SiglipTextTower(**SIZES, **more),
    "bag_of_words": lambda **more: BagOfWordsTower(width=32, context_length=10, **more),
}


def made(name, **more):
    torch.manual_seed(0)
    return TOWERS[name](**more)


def words_of(tower, captions=WORDS):
    return Tokenizer(tower.tokenizer, tower.context_length, tower.pad)(captions)


@pytest.mark.parametrize("name", TOWERS)
def test_forward_backward_save_load(name, tmp_path):
    tower = made(name).eval()
    tokens, mask = words_of(tower)
    features = tower(tokens, mask)
    assert features.pooled.shape == (3, tower.width) and features.tokens.shape == (*tokens.shape, 32)
    features.pooled.square().sum().backward()
    assert [n for n, p in tower.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    save(tower, tmp_path / "tower.clip")
    other = load(tmp_path / "tower.clip")
    assert torch.equal(other(tokens, mask).pooled, features.pooled)
    assert (other.tokenizer, other.context_length, other.pad) == (tower.tokenizer, 10, tower.pad)


@pytest.mark.parametrize("name", TOWERS)
def test_a_caption_is_the_same_alone_and_among_longer_ones(name):
    tower = made(name).eval()
    together = tower(*words_of(tower)).pooled
    for row, caption in enumerate(WORDS):
        torch.testing.assert_close(tower(*words_of(tower, [caption])).pooled[0], together[row])


def test_trimming_changes_no_gradient():
    """Captions cut to the longest of them against the same padded to the whole context, for the causal tower."""
    tower, found = made("clip").double().eval(), []
    for pad in ("longest", "max_length"):
        tokens, mask = Tokenizer(tower.tokenizer, tower.context_length, pad)(WORDS[:2])
        pooled = tower(tokens, mask).pooled
        found.append((tokens.shape[1], [pooled, *torch.autograd.grad(pooled.square().sum(), list(tower.parameters()))]))
    assert found[0][0] < found[1][0] == tower.context_length
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_order_matters_but_to_a_bag_of_words():
    for name in TOWERS:
        tower = made(name).eval()
        one, other = tower(*words_of(tower, ["red blue", "blue red"])).pooled
        assert torch.allclose(one, other, atol=1e-6) == (name == "bag_of_words")


def test_a_bag_of_words_is_the_mean_of_its_words():
    tower = made("bag_of_words")
    tokens, mask = words_of(tower)
    for row in range(3):
        mean = tower.embedding.weight[tokens[row][mask[row]]].mean(0)
        torch.testing.assert_close(tower(tokens, mask).pooled[row], mean)


def open_clips(tower, act_layer, **options):
    """open_clip's transformer with the weights of ours."""
    theirs = open_clip.transformer.TextTransformer(
        context_length=10, vocab_size=8192, width=32, heads=2, layers=3, output_dim=None, act_layer=act_layer, **options
    ).eval()
    ours = dict(tower.named_parameters())
    renamed = {
        "positional_embedding": "positions",
        ".resblocks.": ".blocks.",
        "attn.in_proj_": "attn.in_proj.",
        "mlp.": "",
    }
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            for old, new in renamed.items():
                name = name.replace(old, new)
            parameter.copy_(ours.pop(name))
    assert not ours
    return theirs


def test_clips_tower_is_open_clips():
    tower = made("clip").eval()
    theirs = open_clips(tower, open_clip.transformer.QuickGELU, pool_type="eos", eos_id=tower.end_id, pad_id=0)
    tokens, mask = words_of(tower)
    padded = nn.functional.pad(tokens, (0, 10 - tokens.shape[1]))
    torch.testing.assert_close(tower(tokens, mask).pooled, theirs(padded), rtol=1e-5, atol=1e-5)


def test_siglips_tower_is_open_clips():
    tower = made("siglip").eval()

    def norm(width):
        return open_clip.transformer.LayerNorm(width, eps=1e-6)

    theirs = open_clips(
        tower, lambda: nn.GELU(approximate="tanh"), pool_type="last", no_causal_mask=True, norm_layer=norm
    )
    tokens, mask = words_of(tower)
    assert tokens.shape == (3, 10)
    torch.testing.assert_close(tower(tokens, mask).pooled, theirs(tokens), rtol=1e-5, atol=1e-5)


def test_clip_is_read_at_the_end_token_which_is_not_the_largest_id():
    tower = made("clip").eval()
    tokens, mask = words_of(tower)
    assert tower.end_id < int(tokens.max())
    features = tower(tokens, mask)
    for row in range(3):
        assert torch.equal(features.pooled[row], features.tokens[row, int(mask[row].sum()) - 1])


def test_initial_standard_deviations():
    torch.manual_seed(0)
    tower = ClipTextTower(width=128, layers=1, heads=2)
    assert float(tower.token_embedding.weight.std()) == pytest.approx(0.02, rel=0.02)
    assert float(tower.positions.std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_last_blocks_train(name):
    model = nn.Module()
    model.text = made(name)
    assert len(model.text.blocks()) == 4
    set_trainable(model, {"text": 1})
    trained = {n.split(".")[2] if ".blocks." in n else n for n, p in model.text.named_parameters() if p.requires_grad}
    assert trained == {"2", "ln_final.weight", "ln_final.bias"}


@pytest.mark.parametrize("name", TOWERS)
def test_what_is_refused(name, tmp_path):
    with pytest.raises(ArgumentError, match=r"its ids go up to 8191, but the embedding table has 99 rows") as caught:
        made(name, vocab_size=99)
    assert caught.value.argument == "tokenizer"
    with pytest.raises(ArgumentError, match="tokenizer"):
        made(name, tokenizer="nowhere/at-all.json")
    assert made(name, vocab_size=9000)(*words_of(made(name))).pooled.shape == (3, 32)


@pytest.mark.parametrize("tower", [ClipTextTower, SiglipTextTower])
def test_heads_must_divide_the_width(tower):
    with pytest.raises(ArgumentError, match="heads: 32 is not divisible by 3"):
        tower(width=32, heads=3)


def test_clip_needs_an_end_token(tmp_path):
    import tokenizers

    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ArgumentError, match="it ends captions with no token of its own"):
        ClipTextTower(**SIZES, tokenizer=str(tmp_path / "tokenizer.json"))
