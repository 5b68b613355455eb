"""What a loader hands over is what was made, whether by a worker or not."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from omnicap_cli.training.data import data_loader
from omnicap_cli.training.data.batch_plan import BatchPlan
from omnicap_cli.training.data.collating import BatchStats
from omnicap_cli.training.data.data_loader import STATS, RankBatches, as_tensors, ending_workers

STATS_OF_IT = BatchStats(
    num_tokens=3, num_supervised_tokens=1, num_places=4, num_patches=0, sample_ids=("a", "b"), num_skipped=1
)


class Maker:
    """Makes one batch of small and of large tensors."""

    def make(self, _rows):
        return {
            "input_ids": torch.arange(6).reshape(2, 3),
            "pixel_values": torch.arange(40_000, dtype=torch.float32).reshape(4, -1),
            "sample_lengths": (2, 1),
            "use_cache": False,
            STATS: STATS_OF_IT,
        }


@pytest.mark.parametrize("num_workers", [0, 1])
def test_nothing_is_changed_on_the_way(num_workers, monkeypatch) -> None:
    monkeypatch.setattr(BatchPlan, "rows", lambda *_: [])
    monkeypatch.setattr(BatchPlan, "num_batches", 2, raising=False)
    batches = RankBatches(Maker(), object.__new__(BatchPlan), process=0, num_processes=1)
    with ending_workers():
        loader = batches.loader(num_workers=num_workers)
        assert isinstance(loader, DataLoader)
        handed_over = [as_tensors(batch) for batch in loader]
    expected = Maker().make([])
    assert len(handed_over) == 2
    for batch in handed_over:
        assert batch.keys() == expected.keys()
        for name, value in expected.items():
            if torch.is_tensor(value):
                assert batch[name].dtype == value.dtype
                assert torch.equal(batch[name], value)
            else:
                assert batch[name] == value


def test_only_what_is_small_is_copied() -> None:
    made = Maker().make([])
    handed_over = data_loader._only([made])
    assert made["input_ids"].nbytes <= data_loader._SMALL_BYTES < made["pixel_values"].nbytes
    assert not torch.is_tensor(handed_over["input_ids"])
    assert handed_over["pixel_values"] is made["pixel_values"]
