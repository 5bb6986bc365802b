import os
import signal

import lightning
import pytest
import torch
from helpers import PATCHES, SIZE, dataset, png, record
from transformers import PreTrainedTokenizerFast

from minillava.data import Collator, InstructionData, InstructionDataset, ResumableLoader

# Samples and batches


def test_a_sample(tmp_path, tokenizer):
    (tmp_path / "a.png").write_bytes(png())
    data = dataset([record(7, "a.png"), record("text")], tokenizer, image_root=tmp_path)
    picture, text = data[0], data[1]
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    assert picture["id"] == "7" and picture["image_keys"] == [str(tmp_path / "a.png")]
    assert (picture["input_ids"] == image_id).sum() == PATCHES
    learned = picture["labels"][picture["labels"] != -100]
    assert tokenizer.decode(learned) == "Red.</s>"
    assert text["pixel_values"].shape == (0, 3, SIZE, SIZE) and text["image_keys"] == []
    assert dataset([record(7, "a.png")], tokenizer, pixels=False)[0]["image_keys"] == ["a.png"]


def test_eager_and_lazy_agree(tokenizer):
    records = [record(i, png()) for i in range(3)]
    lazy, eager = dataset(records, tokenizer), dataset(records, tokenizer, eager=True)
    for one, other in zip(lazy, eager, strict=True):
        assert one["input_ids"].equal(other["input_ids"])
        assert one["labels"].equal(other["labels"])
        assert one["image_keys"] == other["image_keys"]


def test_several_pictures(tokenizer):
    turns = record(0, png())["conversations"] * 2
    sample = dataset(
        [{"id": 0, "image": [png("red"), png("blue")], "conversations": turns}], tokenizer
    )
    assert sample[0]["pixel_values"].shape == (2, 3, SIZE, SIZE)
    assert len(set(sample[0]["image_keys"])) == 2


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_pads_on_the_asked_side(tokenizer, side):
    records = [record("long", png(), answer="A very red one."), record("text"), record("c", png())]
    samples = list(dataset(records, tokenizer))
    batch = Collator(tokenizer.pad_token_id, side)(samples)
    width = max(len(sample["input_ids"]) for sample in samples)
    assert batch["input_ids"].shape == batch["labels"].shape == (3, width)
    assert batch["pixel_values"].shape == (2, 3, SIZE, SIZE)
    assert batch["ids"] == ["long", "text", "c"] and len(batch["image_keys"]) == 2
    for row, sample in enumerate(samples):
        real = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][real].equal(sample["input_ids"])
        assert batch["labels"][row][real].equal(sample["labels"])
        assert (batch["input_ids"][row][~real] == tokenizer.pad_token_id).all()
        assert (batch["labels"][row][~real] == -100).all()
        end = 0 if side == "right" else -1
        assert real[end]


def test_a_batch_of_texts_has_no_picture(tokenizer):
    batch = Collator(0)(list(dataset([record("a"), record("b")], tokenizer)))
    assert batch["pixel_values"].shape == (0, 3, SIZE, SIZE) and batch["image_keys"] == []


def test_a_literal_pad_token_in_a_text_is_attended(tokenizer):
    (sample,) = dataset([record("a", answer="<unk>")], tokenizer)
    assert Collator(tokenizer.unk_token_id)([sample])["attention_mask"].all()


def test_a_picture_that_breaks_midway_is_named(tmp_path, tokenizer):
    (tmp_path / "a.png").write_bytes(png())
    data = dataset([record("x", "a.png")], tokenizer, image_root=tmp_path, eager=True)
    assert data[0]["id"] == "x"
    (tmp_path / "a.png").write_bytes(png()[:40])
    with pytest.raises(ValueError, match=r"a.png of record 0 \(id 'x'\)"):
        data[0]
    os.remove(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png of record 0 \(id 'x'\)"):
        data[0]


def test_a_record_that_breaks_midway_is_replaced_by_the_next_of_its_kind(tmp_path, tokenizer):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(png())
    records = [record("t"), *(record(name, f"{name}.png") for name in "abc"), record("u")]
    data = dataset(records, tokenizer, image_root=tmp_path, skip_broken=True)
    assert [data[i]["skipped"] for i in range(5)] == [[]] * 5
    (tmp_path / "b.png").write_bytes(png()[:40])
    (tmp_path / "c.png").unlink()
    samples = [data[i] for i in range(5)]
    assert [sample["id"] for sample in samples] == ["t", "a", "a", "a", "u"]  # past the text, and the end
    reasons = Collator(0)(samples)["skipped"]
    named = [next(name for name in ("'b'", "'c'") if f"(id {name})" in reason) for reason in reasons]
    assert named == ["'b'", "'c'", "'c'"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match="None of the records can be used. The last: .*a.png"):
        data[2]
    assert data[4]["id"] == "u"


def test_nothing_to_learn_from_is_an_error(tokenizer):
    for bad in (
        record("x", answer=""),
        record("x", answer=None),
        record("x", png()) | {"image": None},
    ):
        with pytest.raises(ValueError, match=r"record 0 \(id 'x'\)"):
            dataset([bad], tokenizer)[0]
    with pytest.raises(ValueError, match="Raise max_length"):
        dataset([record("x")], tokenizer, max_length=20)[0]


# Lightning


class Recorder(lightning.LightningModule):
    """Learns one number, and writes down which samples it was shown."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.seen.append((self.current_epoch, batch["ids"]))
        return (self.weight - 1) ** 2

    def validation_step(self, batch, _):
        assert batch["ids"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data, folder, checkpoint=None, **options):
    model = Recorder()
    saver = lightning.pytorch.callbacks.ModelCheckpoint(
        folder, every_n_train_steps=1, save_top_k=-1, filename="{step}"
    )
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, callbacks=[saver], enable_progress_bar=False,
        enable_model_summary=False, max_epochs=3, **options,
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return model.seen


@pytest.fixture
def instruction_data(tokenizer):
    records = [record(i, png() if i % 3 else None, answer="r" * (i + 1)) for i in range(11)]
    texts = dataset(records, tokenizer, pixels=False, eager=True)
    return lambda **options: InstructionData(texts, 2, texts, **options)


@pytest.mark.parametrize("step", [2, 6, 8, 12])
@pytest.mark.filterwarnings("ignore")
def test_a_run_resumes_at_the_very_batch(instruction_data, tmp_path, step):
    whole = fit(instruction_data(), tmp_path)
    assert len(whole) == 18 and whole[0][1] != whole[6][1]
    resumed = fit(instruction_data(), tmp_path, tmp_path / f"step={step}.ckpt")
    assert resumed == whole[step:]


@pytest.mark.filterwarnings("ignore")
def test_a_shortened_epoch_is_not_taken_for_an_interrupted_one(instruction_data, tmp_path):
    whole = fit(instruction_data(), tmp_path, limit_train_batches=2)
    resumed = fit(instruction_data(), tmp_path, tmp_path / "step=2.ckpt", limit_train_batches=2)
    assert len(whole) == 6 and resumed == whole[2:]


def test_workers_fetching_ahead_do_not_count(instruction_data):
    loader = instruction_data(num_workers=1).train_dataloader()
    batches = iter(loader)
    first = [next(batches)["ids"] for _ in range(2)]
    state = loader.state_dict()
    rest = [batch["ids"] for batch in batches]
    other = instruction_data().train_dataloader()
    other.load_state_dict(state)
    assert state["batch"] == len(first) and [batch["ids"] for batch in other] == rest


def test_resuming_with_another_layout_is_refused(instruction_data):
    state = instruction_data().train_dataloader().state_dict()
    with pytest.raises(ValueError, match="seed = 42, this run has 1"):
        instruction_data(seed=1).train_dataloader().load_state_dict(state)
    with pytest.raises(ValueError, match="a step's batch = 4, this run has 2"):
        instruction_data().train_dataloader().load_state_dict(state | {"accumulation": 2})


def test_a_worker_that_dies_is_an_error_that_says_what_to_do(tokenizer):
    class Deadly(InstructionDataset):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    texts = dataset([record(i) for i in range(4)], tokenizer)
    texts.__class__ = Deadly
    loaders = InstructionData(texts, 2, validation=texts, num_workers=1)
    for loader in (loaders.train_dataloader(), loaders.val_dataloader()):
        with pytest.raises(OSError, match=r"prepares batches died \(DataLoader worker .*take fewer workers"):
            next(iter(loader))


def test_a_workers_error_is_the_one_that_would_be_raised_without_it(tokenizer, tmp_path):
    broken = dataset([record("broken", "gone.png")] * 2, tokenizer, image_root=tmp_path)
    loaders = InstructionData(broken, 2, validation=broken, num_workers=1)
    for loader in (loaders.train_dataloader(), loaders.val_dataloader()):
        with pytest.raises(ValueError, match="^There is no picture file .*gone.png of record . .*'broken'"):
            next(iter(loader))


def test_loading_leaves_the_global_generator_alone(instruction_data):
    before = torch.get_rng_state()
    loader = instruction_data().train_dataloader()
    assert isinstance(loader, ResumableLoader) and len(list(loader)) == len(loader) == 6
    assert torch.get_rng_state().equal(before)


def test_a_tokenizer_without_pad_token_is_refused(tokenizer):
    texts = dataset([record("a")], tokenizer)
    texts.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="pad token"):
        InstructionData(texts, 2)
