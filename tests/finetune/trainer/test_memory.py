"""What happens when the memory is not enough."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from finetune.trainer import devices
from finetune.trainer.errors import OutOfMemory
from finetune.trainer.spec import Spec
from tests.finetune.trainer.conftest import Ear

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Made = Callable[..., Spec]
Train = Callable[[Spec], dict[str, Any]]


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`room_for(4)`: a step with more rows at once fails as a GPU does."""
    from finetune.trainer.lessons import Lesson

    compute = Lesson.compute_loss

    def limit(rows: int) -> None:
        def checked(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if len(inputs["input_ids"]) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
            return compute(self, model, inputs, *args, **kwargs)

        monkeypatch.setattr(Lesson, "compute_loss", checked)

    return limit


def test_smaller_batches_make_the_same_steps(
    causal: Made, train: Train, ear: Ear, room_for: Callable[[int], None]
) -> None:
    whole = train(causal(name="one"))
    losses = ear.losses()
    ear.heard.clear()
    room_for(2)
    said = train(causal(name="two"))
    texts = [each["text"] for each in ear.all("message")]
    assert texts == [
        "Out of memory with 8 rows at once; now 4, and 2 batches per step.",
        "Out of memory with 4 rows at once; now 2, and 4 batches per step.",
    ]
    assert said["steps"] == whole["steps"]
    assert ear.losses() == pytest.approx(losses, abs=1e-3)
    assert said["after"]["eval_loss"] == pytest.approx(whole["after"]["eval_loss"], abs=1e-3)


def test_it_gives_up_after_two_attempts(causal: Made, train: Train, room_for: Callable[[int], None]) -> None:
    room_for(1)
    with pytest.raises(OutOfMemory, match="also for 2 rows at once") as caught:
        train(causal())
    assert caught.value.retry


def test_a_single_row_cannot_be_made_smaller(
    causal: Made, train: Train, room_for: Callable[[int], None]
) -> None:
    room_for(0)
    with pytest.raises(OutOfMemory, match="also for 1 rows at once"):
        train(causal(batch_size=1))


def test_an_odd_batch_keeps_its_size(
    causal: Made, train: Train, ear: Ear, room_for: Callable[[int], None]
) -> None:
    room_for(4)
    train(causal(batch_size=9, max_steps=2))
    assert "now 3, and 3 batches per step" in ear.all("message")[0]["text"]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
    ],
)
def test_it_is_known_by_its_many_names(error: Exception) -> None:
    assert devices.is_out_of_memory(error)
    assert not devices.is_out_of_memory(RuntimeError("shapes do not match"))


def test_what_would_not_fit_is_computed_twice() -> None:
    llama = SimpleNamespace(hidden_size=4096, num_hidden_layers=32, vocab_size=128_000)
    llama.get_text_config = lambda: llama
    assert devices.should_recompute(llama, rows=16, length=2048, free_bytes=60 * 2**30)
    assert not devices.should_recompute(llama, rows=4, length=512, free_bytes=60 * 2**30)
