"""What `clipkit bench loss|step|batch|overhead` write; their times are nobody's business here."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.benchmarking.batch import _batch, _tiny
from clipkit.benchmarking.open_clip_loop import accumulated_step, time_no_model
from clipkit.benchmarking.overhead import LIBRARIES, measure_start
from clipkit.benchmarking.rows import Row, from_seconds, quotient, rate
from clipkit.benchmarking.step import ARCHITECTURES, Steps, clipkit_model, largest_batch, steps_of
from clipkit.cli import main
from clipkit.objectives import InfoNCE


def figures_of(words, tmp_path, capsys):
    told = tmp_path / "figures.json"
    assert main(["bench", *words, "--rounds", "1", "--against", "open_clip", "--json", str(told)]) == 0
    figures = json.loads(told.read_text())
    assert (figures["what"], figures["rounds"]) == (words[0], 1)
    for row in figures["rows"]:
        assert row["share"]["median"] == pytest.approx(row["ours"] / row["theirs"])
    out = capsys.readouterr()
    assert "USDT" not in out.err
    return figures, out.out


def test_loss(tmp_path, capsys):
    words = ["loss", "--batches", "64", "96", "--memory", "256", "--width", "8"]
    figures, out = figures_of(words, tmp_path, capsys)
    assert [row["what"] for row in figures["rows"]] == [
        "InfoNCE, B = 64",
        "sigmoid, B = 64",
        "InfoNCE, B = 96",
        "sigmoid, B = 96",
        *(f"InfoNCE at once, B = {batch}" for batch in ("256", "512", "1,024")),
        *(f"sigmoid at once, B = {batch}" for batch in ("256", "512")),
        "InfoNCE, peak at B = 256",
        "InfoNCE, peak at B = 256 beside 64",
        "sigmoid, peak at B = 256",
        "sigmoid, peak at B = 256 beside 64",
    ]
    assert "share of theirs" in out


def test_one_loss_alone(tmp_path, capsys):
    words = ["loss", "--loss", "sigmoid", "--batches", "8", "--memory", "16", "--width", "8"]
    rows = figures_of(words, tmp_path, capsys)[0]["rows"]
    assert {row["what"].split()[0].strip(",") for row in rows} == {"sigmoid"}


def test_step(tmp_path, capsys):
    figures, _ = figures_of(["step", "--batch", "2"], tmp_path, capsys)
    assert [(row["base"], row["what"].split(", ")[-1], row["unit"]) for row in figures["rows"]] == [
        ("open_clip fp32", "fp32", "ms"),
        ("open_clip bf16", "bf16", "ms"),
        ("open_clip fp32", "bf16", "ms"),
        ("open_clip fp32", "fp32", "images/s"),
        ("open_clip bf16", "bf16", "images/s"),
    ]
    times, rates = figures["rows"][0], figures["rows"][3]
    assert rates["ours"] == pytest.approx(2 * 1000 / times["ours"])


def test_step_in_one_precision(tmp_path, capsys):
    figures, _ = figures_of(["step", "--batch", "2", "--precision", "bf16"], tmp_path, capsys)
    assert [(row["base"], row["unit"]) for row in figures["rows"]] == [
        ("open_clip bf16", "ms"),
        ("open_clip bf16", "images/s"),
    ]


def test_the_largest_batch_is_the_last_that_both_sides_take(monkeypatch):
    tried = []

    def steps(architecture, batch, *_):
        def run(most):
            tried.append(batch)
            if batch > most:
                raise torch.OutOfMemoryError(f"{batch} are too many")

        return {"theirs": Steps(None, lambda: run(600)), "ours": Steps(None, lambda: run(300))}

    monkeypatch.setattr("clipkit.benchmarking.step.steps_of", steps)
    assert largest_batch("ViT-B-32", False, ["bf16"]) == 256
    assert sorted(set(tried)) == [64, 128, 256, 512]


def test_the_largest_batch_is_not_looked_for_without_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", "step", "--batch", "largest"]) == 2
    assert "--batch largest is for a GPU, whose memory says when it is full" in capsys.readouterr().err


def test_other_weights_are_refused(monkeypatch):
    def other(architecture, theirs):
        model = clipkit_model(architecture, theirs)
        torch.nn.init.zeros_(model.head.image.weight)
        return model

    monkeypatch.setattr("clipkit.benchmarking.step.clipkit_model", other)
    with pytest.raises(RuntimeError, match=r"the models are not the same: their losses are .*theirs"):
        steps_of(ARCHITECTURES["ViT-S-32-alt"], 4, "bf16", "cpu", False)


def test_both_sides_of_a_step_have_the_same_loss_and_gradients():
    both = steps_of(ARCHITECTURES["ViT-S-32-alt"], 4, "fp32", "cpu", False)
    losses = {side: [float(steps.run().detach()) for _ in range(2)] for side, steps in both.items()}
    assert losses["ours"] == pytest.approx(losses["theirs"], abs=1e-4)  # the second, of weights that both have stepped
    assert losses["ours"][0] != losses["ours"][1]
    sizes = {sum(p.numel() for p in steps.model.parameters()) for steps in both.values()}
    assert len(sizes) == 1


def test_batch(tmp_path, capsys):
    words = ["batch", "--batch", "64", "--micro-batch", "16", "--blocks", "1"]
    figures, out = figures_of(words, tmp_path, capsys)
    assert [row["unit"] for row in figures["rows"]] == ["ms", "MiB", "ms", "ms", "ms", "MiB"]
    assert {row["base"] for row in figures["rows"][:2]} == {"open_clip's --accum-freq"}
    assert [row["what"].split(", ")[-1] for row in figures["rows"][3:5]] == [
        "the forward pass that is run again",
        "the loss of 64",
    ]
    assert len({row["theirs"] for row in figures["rows"][2:5]}) == 1
    assert "most memory the whole process held" in out


def test_accumulation_beside_has_the_gradients_of_the_whole_batch():
    """But the temperature's, which it adds up once a micro-batch."""
    model, batch = _tiny(1), _batch(12)
    accumulated_step(model, batch, 4)()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    InfoNCE()(model(batch), batch).loss.backward()
    for name, parameter in model.named_parameters():
        times = 3 if name == "head.logit_scale" else 1
        torch.testing.assert_close(theirs[name], times * parameter.grad, rtol=1e-3, atol=1e-5)


def test_the_other_loop_takes_what_its_model_takes():
    assert time_no_model(0.02, 3) >= 0.02


def test_overhead(tmp_path, capsys, monkeypatch):
    start = quotient("start", "its imports", 1.0, 2.0, "ms")
    monkeypatch.setattr("clipkit.benchmarking.measure_start", lambda words, rounds: start)
    figures, _ = figures_of(["overhead", "--steps", "20", "--batch", "16", "--loaded-steps", "2"], tmp_path, capsys)
    assert [row["base"] for row in figures["rows"]] == [
        "Lightning",
        "a loop by hand",
        "a loop by hand",
        "open_clip's loop",
        "open_clip's loop",
        "on batches in memory",
        "its imports",
    ]
    assert figures["rows"][5]["what"] == "a step of emoji, bf16-mixed, on loaded batches"


@pytest.mark.nightly
def test_the_start_ends_with_the_first_step():
    words = ["fit", "-c", "emoji", "--data.workers=0", "--data.batch_size=8"]
    row = measure_start(words, 1)
    assert row.theirs > 0 and "mlflow" in LIBRARIES
    with pytest.raises(RuntimeError, match=r"it ended with 2: .*nowhere"):
        measure_start(["fit", "-c", "nowhere"], 1)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["loss", "--rounds", "0"], "--rounds 0 is not at least 1"),
        (["loss", "--batches", "0"], "--batches 0 is not at least 1"),
        (["step", "--model", "ViT-H"], "--model ViT-H is not one of ViT-S-32-alt, ViT-B-32"),
        (["step", "--batch", "0"], "--batch: 0 is neither `largest` nor a number above 0"),
        (["batch", "--blocks", "0"], "--blocks 0 is not at least 1"),
        (["overhead", "--loaded-steps", "0"], "--loaded-steps 0 is not at least 1"),
        (["batch", "--micro-batch", "1"], "--micro-batch 1 is not between 2 and --batch 32768"),
        (["overhead", "--step", "5"], "--step"),
        (["lose"], "there is no lose. Did you mean loss?"),
    ],
)
def test_mistakes_are_named(words, complaint, capsys):
    assert main(["bench", *words]) == 2
    assert complaint in capsys.readouterr().err


def test_rates_are_times_turned_over():
    row = from_seconds("a", "b", {"theirs": [1.0, 2.0, 4.0], "ours": [1.0, 1.0, 1.0]})
    turned = rate(row, 64)
    assert (turned.theirs, turned.ours, turned.unit) == (32, 64, "images/s")
    assert turned.share == (2, 1, 4)


def test_shares_are_of_the_medians_and_ranges_of_rounds():
    row = from_seconds("a", "b", {"theirs": [1.0, 2.0, 4.0], "ours": [1.0, 1.0, 1.0]})
    assert row == Row("a", "b", 2000, 1000, "ms", row.share)
    assert row.share == (0.5, 0.25, 1.0)
