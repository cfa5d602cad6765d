"""Two processes on one bucket, as the hosts of a slice are: the run of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from auxjax import manifest, storage
from tests.processes.launching import outcome, train
from tests.processes.test_train import good, same
from tests.storage.objects import Bucket


@pytest.mark.slow_study
def test_two_processes_train_in_a_bucket_as_one_does_on_a_disk(bucket: Bucket, data_dir: str, tmp_path: Path) -> None:
    """And one process goes on where the two were cut off."""
    for count, workdir in ((1, str(tmp_path / "one")), (2, "gs://bucket/run")):
        good(train(count, 4 // count, [{"workdir": workdir, "changes": {}}], data_dir, tmp_path / str(count)))
    for process in (0, 1):
        same(outcome(tmp_path / "2", 0, process), outcome(tmp_path / "1", 0))
    folder = storage.place("gs://bucket/run")
    assert manifest.verify(folder / "checkpoints" / "4") is None
    assert not [name for name in bucket.objects if "/." in name]
    for name in [name for name in bucket.objects if name == "run/DONE" or name.startswith("run/checkpoints/4/")]:
        del bucket.objects[name]
    good(train(1, 4, [{"workdir": "gs://bucket/run", "changes": {}}], data_dir, tmp_path / "again"))
    same(outcome(tmp_path / "again", 0), outcome(tmp_path / "1", 0))
