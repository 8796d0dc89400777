"""Image-text retrieval: the metric, and the evaluator that runs a model over captioned rows."""

from __future__ import annotations

import torch
from datasets import Dataset
from torch import Tensor, nn

from clipkit.evaluation.base import Rankings, as_pair_encoder, held_still, open_rows, shares
from clipkit.evaluation.columns import Columns, first_of_each
from clipkit.functional import median_rank, recall_at_k, retrieval_ranks, top_candidates
from clipkit.types import ArgumentError

__all__ = ["Retrieval", "RetrievalEvaluator"]

_MOST_CAPTIONS = 1 << 20  # of one image; only keeps the keys of captions apart


class Retrieval(Columns):
    """Recall and ranks of images among captions and of captions among images.

    A candidate is right where its concept is the query's: of an image, its captions; of a caption, its image; and with
    ``concept`` ids all images and captions that share one. The best-ranked right candidate counts and other right ones
    do not push it down. Ties are pessimistic. Keeps the embeddings, N * D float32, and scores ``chunk`` queries at a
    time. Recall is computed here, because torchmetrics' own drops candidates whose score is not positive.

    Args:
        top: The k of ``R@k``.
        chunk: Queries scored at a time.
    """

    def __init__(self, top: tuple[int, ...] = (1, 5, 10), chunk: int = 256) -> None:
        super().__init__()
        self.top = tuple(top)
        self.chunk = chunk
        for side in ("image", "text"):
            self.add_column(side, torch.float32)
            self.add_column(f"{side}_key")
            self.add_column(f"{side}_concept")

    def update(
        self,
        image: Tensor,
        text: Tensor,
        position: Tensor | None = None,
        concept: Tensor | None = None,
        owner: Tensor | None = None,
    ) -> None:
        """Add images and all of their captions.

        Args:
            image: (B, D), normalised where cosine is meant.
            text: (C, D).
            position: (B,) int64, each image's number in the whole set: it restores the order of one process across
                ranks, and an image that comes again is left out. By default images are counted as they come.
            concept: (B,) int64 ids; images of equal ids share their right answers. By default every image is its own.
            owner: (C,) int64, for each caption the row of its image in ``image``. By default caption i is of image i.

        Raises:
            ValueError: Shapes do not fit.
        """
        count = len(image)
        position = self.count_on("image_key", count) if position is None else position
        owner = torch.arange(count) if owner is None else owner
        if len(text) != len(owner) or len(position) != count or image.shape[1:] != text.shape[1:]:
            raise ValueError(
                f"image {tuple(image.shape)}, text {tuple(text.shape)}, {len(position)} positions and {len(owner)} "
                "owners do not fit: it takes one position an image, one owner a caption, and one width"
            )
        slot = _running_count(owner.cpu()).to(image.device)
        owner, position = owner.to(image.device), position.to(image.device)
        concept = position if concept is None else concept.to(image.device)
        self._append("image", image, position, concept)
        self._append("text", text, position[owner] * _MOST_CAPTIONS + slot, concept[owner])

    def compute(self) -> dict[str, float]:
        """``image_to_text_R@1`` and so on, ``..._mean_rank``, ``..._median_rank``, and the same for ``text_to_image``.

        Raises:
            ValueError: There is no image.
        """
        image, text = self._side("image"), self._side("text")
        if not len(image[0]):
            raise ValueError("there is nothing to retrieve: no image was added")
        return self._direction("image_to_text", image, text) | self._direction("text_to_image", text, image)

    def rankings(self, queries: int = 16, k: int = 5) -> Rankings:
        """The k best images of some captions, over all ranks; call it on every rank.

        Args:
            queries: How many images lend their first caption as a query, evenly spaced.
            k: How many images a query.

        Returns:
            ``query`` and ``top`` are positions of images.
        """
        with self.sync_context():
            (image, position, concept), (text, key, text_concept) = self._side("image"), self._side("text")
        first = (key % _MOST_CAPTIONS == 0).nonzero().flatten()
        chosen = first[torch.linspace(0, len(first) - 1, min(queries, len(first))).round().long().to(first.device)]
        score, top = top_candidates(text[chosen], image, k, chunk=self.chunk)
        right = concept[top] == text_concept[chosen][:, None]
        found = (key[chosen] // _MOST_CAPTIONS, position[top], score, right)
        return Rankings(*(part.cpu() for part in found))

    def _append(self, side: str, vectors: Tensor, key: Tensor, concept: Tensor) -> None:
        for name, values in ((side, vectors), (f"{side}_key", key), (f"{side}_concept", concept)):
            self.append(name, values)

    def _side(self, side: str) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (N, D), keys (N,) and concepts (N,) in the order of the whole set."""
        key = self.column(f"{side}_key")
        order = first_of_each(key)
        vectors = self.column(side).reshape(len(key), -1) if len(key) else self.column(side)[:, None]
        return vectors[order], key[order], self.column(f"{side}_concept")[order]

    def _direction(
        self, name: str, query: tuple[Tensor, Tensor, Tensor], candidate: tuple[Tensor, Tensor, Tensor]
    ) -> dict[str, float]:
        ranks = retrieval_ranks(query[0], candidate[0], query[2], candidate[2], chunk=self.chunk).cpu()
        recalls = {f"{name}_R@{k}": recall_at_k(ranks, k).item() for k in self.top}
        return recalls | {
            f"{name}_mean_rank": ranks.double().mean().item(),
            f"{name}_median_rank": median_rank(ranks).item(),
        }


def _running_count(owner: Tensor) -> Tensor:
    """(C,): how many entries before this one have the same owner."""
    order = owner.argsort(stable=True)
    counts = owner.bincount()
    first = counts.cumsum(0) - counts  # of each owner, in sorted order
    places = torch.arange(len(owner), device=owner.device) - first[owner[order]]
    return torch.empty_like(places).index_copy_(0, order, places)


class RetrievalEvaluator:
    """Retrieval among the rows of a set, each an image with one caption or several.

    Args:
        rows: A name that ``clipkit.data.load_rows`` knows, or a ``datasets.Dataset``.
        image: Column of the images.
        caption: Column of the captions, a string or a list of strings.
        concept: Column of int ids; rows of equal ids are right answers of each other. ``None``: every row is its own.
        split: The split of ``rows``, where a folder or hub id has several.
        batch_size: Rows a batch.
        top: The k of ``R@k``.

    Attributes:
        artifacts: After a call ``rankings``: the five best images of some captions.

    Raises:
        ArgumentError: There are no such rows, no such column, or no row in a batch.
    """

    def __init__(
        self,
        rows: str | Dataset,
        image: str = "image",
        caption: str = "captions",
        concept: str | None = None,
        split: str = "train",
        batch_size: int = 256,
        top: tuple[int, ...] = (1, 5, 10),
    ) -> None:
        if batch_size < 1:
            raise ArgumentError("batch_size", f"{batch_size} is less than 1")
        self.image = image
        self.caption = caption
        self.concept = concept
        self.rows = open_rows("rows", rows, [image, caption] + ([concept] if concept else []), split)
        self.batch_size = batch_size
        self.top = top
        self.artifacts: dict[str, object] = {}

    def __call__(self, model: nn.Module, /) -> dict[str, float]:
        """Retrieve both ways; names as ``Retrieval.compute``.

        Raises:
            TypeError: The model cannot encode images and texts.
        """
        encoder = as_pair_encoder(model)
        metric: Retrieval | None = None
        with held_still(model):
            for share in shares(self.rows, self.batch_size):
                captions = [[c] if isinstance(c, str) else list(c) for c in share.columns[self.caption]]
                image = encoder.encode_image(share.columns[self.image])  # (B, D)
                text = encoder.encode_text([caption for several in captions for caption in several])  # (C, D)
                owner = torch.tensor([i for i, several in enumerate(captions) for _ in several], dtype=torch.int64)
                concept = torch.tensor(share.columns[self.concept]) if self.concept else None
                if metric is None:
                    metric = Retrieval(self.top).to(image.device)
                if share.counts:
                    metric.update(image, text, share.position, concept, owner)
            assert metric is not None  # shares yields at least once or raises
            figures: dict[str, float] = metric.compute()
            self.artifacts = {"rankings": metric.rankings()}
        return figures
