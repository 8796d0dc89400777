"""Runs of the real command that are killed at seeded random moments, against one that never was."""

from __future__ import annotations

import random

import pytest
import torch

from clipkit.checkpoints import complete_checkpoints

from .killing import EXPERIMENT, Runs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run that nobody kills records, by its words."""
    made: dict[tuple[str, ...], Runs] = {}

    def run(words: list[str]) -> Runs:
        if tuple(words) not in made:
            runs = Runs(tmp_path_factory.mktemp("whole") / "run", words)
            runs.finish()
            made[tuple(words)] = runs
        return made[tuple(words)]

    return run


STREAM = ["--data.train=../shards/s-{0..6}.tar", "--data.caption=null", "--data.epoch_steps=10", "--data.window=25"]
TWO_RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp_fork"]
CASES = {
    "workers 0": ["--data.workers=0"],
    "workers 2": ["--data.workers=2"],
    "accumulating": ["--data.workers=0", "--trainer.accumulate_grad_batches=3"],
    "streaming, workers 0": [*STREAM, "--data.workers=0"],
    "streaming, workers 2": [*STREAM, "--data.workers=2"],
    "streaming, accumulating": [
        *STREAM,
        "--data.workers=2",
        "--data.epoch_steps=4",
        "--trainer.accumulate_grad_batches=3",
    ],
}
CASES |= {
    f"two ranks, {name}": [*CASES[name], *TWO_RANKS]
    for name in ("workers 0", "workers 2", "streaming, workers 0", "streaming, workers 2", "streaming, accumulating")
}
EPOCHS, BATCHES = 3, 10

# The plain tests have a seed of those that cover most. The night has twenty, each of some of the cases, in turn: less
# than half an hour of two cores.
SINGLE = ["workers 2", "accumulating", "streaming, workers 2"]
PLAIN = {case: seed for seed, case in enumerate([*SINGLE, "two ranks, streaming, workers 2", "two ranks, workers 2"])}
VALIDATION = ["workers 0", "workers 2", "streaming, workers 0", "streaming, workers 2"]


def in_turn(cases: list[str], plain: dict[str, int], each: int) -> list:
    """The plain cases with their seeds, and so many of all for each seed of the night."""
    turns = [(cases[(seed * each + i) % len(cases)], seed) for seed in range(20) for i in range(each)]
    night = [pytest.param(*turn, marks=pytest.mark.nightly) for turn in turns if turn not in plain.items()]
    return [*plain.items(), *night]


@pytest.mark.parametrize(("case", "seed"), in_turn(list(CASES), PLAIN, 3))
def test_killed_at_random_steps(case, seed, undisturbed, tmp_path):
    """Two or three kills in one epoch, the second or the third: every batch and its loss are the same to the bit."""
    whole = undisturbed(CASES[case])
    runs, rng, epoch = Runs(tmp_path / "run", CASES[case]), random.Random(seed), 1 + seed % 2
    begun = epoch * BATCHES
    if "accumulating" in case:
        last = runs.kill_after(begun + rng.randint(1, 2), "within a step")
        assert (last["place"][1] + 1) % 3 != 0 and last["place"][1] + 1 < BATCHES
    else:
        last = runs.kill_after(begun + rng.randint(1, 2), delay=rng.uniform(0, 0.02))
    assert last["place"][0] == epoch
    for _ in range(1 if "two ranks" in case else 2):
        runs.kill_after(rng.randint(2, 3), delay=rng.uniform(0, 0.02))
    runs.finish()
    assert_same(runs, whole, ranks=2 if "two ranks" in case else 1)
    assert "going on from" in (runs.folder / "said.txt").read_text()


SAVER = "class_path: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: kept, save_last: true"


def test_killed_after_a_checkpoint_that_validation_made_within_a_step(tmp_path):
    """Of a model with batch norms, as well as numbers that are drawn."""
    normed = EXPERIMENT.replace("test_vit", "test_efficientnet").replace("proj_drop_rate", "drop_path_rate")
    after_validation = f"{{{SAVER}, monitor: step, mode: max, filename: 'validated-{{step}}'}}"
    words = [
        *CASES["accumulating"],
        "--trainer.val_check_interval=4",
        f"--trainer.callbacks=[{{class_path: recorder.Recorder}}, {after_validation}]",
    ]
    whole, runs = (Runs(tmp_path / name, words, experiment=normed) for name in ("whole", "run"))
    whole.finish()
    last = runs.kill_after(BATCHES + 5)
    assert last["place"] == [1, 4]  # validated and saved after the fourth batch, of steps of three
    newest = next(complete_checkpoints(runs.folder / "kept"))
    saved = torch.load(newest.path, weights_only=True)
    assert "buffers_before_step" in saved and saved["global_step"] == 5
    runs.finish()
    assert_same(runs, whole)


@pytest.mark.parametrize(("case", "seed"), in_turn(VALIDATION, {"workers 0": 0, "streaming, workers 2": 1}, 1))
def test_killed_during_validation(case, seed, undisturbed, tmp_path):
    whole, rng = undisturbed(CASES[case]), random.Random(seed)
    runs = Runs(tmp_path / "run", CASES[case])
    last = runs.kill_after(rng.randint(BATCHES + 1, EPOCHS * BATCHES), when=rng.randrange(2))
    assert "validating" in last and last["validating"] > BATCHES
    runs.finish()
    assert_same(runs, whole)


def test_the_real_command(undisturbed, tmp_path):
    words = CASES["streaming, workers 2"]
    runs = Runs(tmp_path / "run", words, real=True)
    runs.kill_after(17)
    runs.finish()
    assert_same(runs, undisturbed(words))


def assert_same(runs: Runs, whole: Runs, ranks: int = 1) -> None:
    for rank in range(ranks):
        assert runs.seen(rank) == whole.seen(rank)
        assert len(whole.seen(rank)) == EPOCHS * BATCHES
        assert all(len(told) == 1 for told in whole.seen(rank).values())
    # weights, running statistics and moments, to the bit
    ended, reference = (torch.load(one.folder / "kept/last.ckpt", weights_only=True) for one in (runs, whole))
    assert ended["global_step"] == reference["global_step"]
    torch.testing.assert_close(ended["state_dict"], reference["state_dict"], rtol=0, atol=0)
    moments = ([optimizer["state"] for optimizer in one["optimizer_states"]] for one in (ended, reference))
    torch.testing.assert_close(*moments, rtol=0, atol=0)
    assert ranks == 1 or whole.seen(0) != whole.seen(1)
