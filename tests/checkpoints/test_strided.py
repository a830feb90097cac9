"""Pickled tensors that lie in their file in another order than row-major, read in parts from several threads."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
import torch
from tiny import raw, tensors_of

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.files import FileReader
from unetscope.merge import Recipe, merge

CONV = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"


@pytest.fixture
def reads(monkeypatch):
    """How often each byte range was read for putting a tensor in order."""
    counted, real = Counter(), FileReader.read

    def read(self, offset, size):
        counted[self.path.name, offset] += 1
        return real(self, offset, size)

    monkeypatch.setattr(FileReader, "read", read)
    return counted


def write(path, seed):
    """A checkpoint as `model.to(memory_format=torch.channels_last)` saves it; one matrix is transposed besides."""
    tensors = tensors_of("sd1", seed)
    saved = {k: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t for k, t in tensors.items()}
    turned = "model.diffusion_model.time_embed.0.weight"
    saved[turned] = tensors[turned].t().contiguous().t()
    torch.save({"state_dict": saved}, path)
    return tensors, [k for k, t in saved.items() if not t.is_contiguous()]


def test_threads_that_read_parts_of_one_tensor_put_it_in_order_once(tmp_path, reads):
    torch.save({CONV: torch.randn(64, 32, 3, 3).half().to(memory_format=torch.channels_last)}, tmp_path / "a.ckpt")
    expected = torch.load(tmp_path / "a.ckpt")[CONV].contiguous().view(torch.int16).numpy().reshape(-1)
    threads, part = 8, expected.size // 8
    found, barrier = np.empty(expected.size, np.int16), threading.Barrier(threads)
    with open_checkpoint(tmp_path / "a.ckpt") as checkpoint:
        info = checkpoint[CONV]

        def work(i: int) -> None:
            barrier.wait()
            out = found[i * part : (i + 1) * part].view(np.uint8)
            checkpoint.read_raw(info, i * part, (i + 1) * part, out)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert list(reads.values()) == [1]
        assert np.array_equal(found, expected)
        # All of it was handed out, so nothing is kept; asking again reads again.
        assert torch.equal(checkpoint.torch(CONV), torch.from_numpy(expected).view(torch.float16).reshape(64, 32, 3, 3))
        assert list(reads.values()) == [2]


def test_two_tensors_at_most_are_kept_in_memory(tmp_path, reads):
    names = [f"model.diffusion_model.input_blocks.{i}.0.in_layers.2.weight" for i in (1, 2, 4)]
    saved = {name: torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last) for name in names}
    torch.save(saved, tmp_path / "a.ckpt")
    with open_checkpoint(tmp_path / "a.ckpt") as checkpoint:
        for name in (*names[:2], *names[:2], names[2], names[1], names[0]):
            out = np.empty(4 * 10, np.uint8)
            checkpoint.read_raw(checkpoint[name], 5, 15, out)
            assert np.array_equal(out.view(np.float32), saved[name].contiguous().view(-1)[5:15].numpy())
    assert sorted(reads.values()) == [1, 1, 2]


def test_a_merge_of_such_files_gives_what_plain_files_give_and_reads_each_tensor_once(tmp_path, reads):
    first, strided = write(tmp_path / "a.ckpt", 1)
    second, _ = write(tmp_path / "b.ckpt", 2)
    models = {n: str(tmp_path / f"{n}.ckpt") for n in "ab"}
    recipe = {"models": models, "steps": {"out": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.5}}}
    merge(Recipe.parse(recipe), tmp_path / "out.safetensors", threads=4, fsync=False)
    with open_checkpoint(tmp_path / "out.safetensors") as result:
        for key in strided:
            vae = key.startswith("first_stage_model.")
            expected = first[key] if vae else ((first[key].float() + second[key].float()) / 2).half()
            assert raw(result.torch(key)) == raw(expected), key
    assert len(reads) >= len(strided) and set(reads.values()) == {1}
