"""Validation retrieval against the metric fed by hand."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from clipkit.callbacks import ValidationRetrieval
from clipkit.evaluation import Retrieval
from clipkit.types import Embeddings, ImageTextBatch

PAIRS = 21
GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randn(PAIRS, 6, generator=GENERATOR)
TEXT = IMAGE + 0.9 * torch.randn(PAIRS, 6, generator=GENERATOR)
CONCEPT = torch.arange(PAIRS) // 2


class Task(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(6, 6, bias=False)
        nn.init.eye_(self.model.weight)

    def training_step(self, batch, batch_idx):
        return self.model.weight.square().sum() + self.model.weight[0].sum()

    def validation_step(self, batch, batch_idx):
        where = batch.position
        return Embeddings(self.model(IMAGE[where]), TEXT[where], torch.ones(1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def collate(positions):
    where = torch.tensor(positions)
    nothing = torch.empty(len(where), 0)
    return ImageTextBatch(nothing, nothing, nothing, CONCEPT[where], where, {})


def loader():
    return DataLoader(list(range(PAIRS)), batch_size=8, collate_fn=collate)


def trainer_with(tmp_path, *callbacks):
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        logger=False,
        max_epochs=2,
    )


def by_hand(weight, **options):
    metric = Retrieval(**options)
    metric.update(IMAGE @ weight.T, TEXT, torch.arange(PAIRS), CONCEPT)
    return metric


def test_figures_are_the_metrics_over_the_whole_set(tmp_path):
    task, callback = Task(), ValidationRetrieval(chunk=5)
    (figures,) = trainer_with(tmp_path, callback).validate(task, loader(), verbose=False)
    metric = by_hand(torch.eye(6))
    assert figures == pytest.approx({f"val/{name}": value for name, value in metric.compute().items()})
    assert set(figures) >= {"val/image_to_text_R@1", "val/text_to_image_R@10", "val/text_to_image_median_rank"}
    assert torch.equal(callback.rankings.top, metric.rankings().top)
    assert sum(len(part) for part in callback.metric.image) == 0  # nothing is kept for the next epoch


@pytest.mark.parametrize("average_first", [True, False])
def test_a_checkpoint_can_choose_by_it_and_holds_the_weights_that_were_scored(tmp_path, average_first):
    average, callback = EMAWeightAveraging(decay=0.5), ValidationRetrieval(top=(1, 3))
    best = ModelCheckpoint(tmp_path / "saved", monitor="val/image_to_text_mean_rank", save_top_k=-1)
    callbacks = [average, callback, best] if average_first else [callback, best, average]
    trainer_with(tmp_path, *callbacks).fit(Task(), loader(), loader())
    assert len(best.best_k_models) == 2
    for path, score in best.best_k_models.items():
        weight = torch.load(path, weights_only=True)["state_dict"]["model.weight"]
        assert score.item() == pytest.approx(by_hand(weight).compute()["image_to_text_mean_rank"])


def test_what_validation_step_has_to_return_is_said(tmp_path):
    task = Task()
    task.validation_step = lambda batch, batch_idx: torch.zeros(())
    with pytest.raises(TypeError, match="needs Embeddings from validation_step, which returned Tensor"):
        trainer_with(tmp_path, ValidationRetrieval()).validate(task, loader(), verbose=False)
