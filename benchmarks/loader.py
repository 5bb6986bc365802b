"""Do the data keep up with the model, and does memory stay flat? LLaVA's layout, generated and in small.

    python benchmarks/loader.py                     # 200,000 records and whole epochs of them
    python benchmarks/loader.py --samples 16000     # the same records, less of the epochs: two minutes

Writes a record file and pictures in the folders of llava_v1_5_mix665k (every sixteenth without a
picture, one to four rounds), checks them, converts them to parquet shards, and reads an epoch of each
in the order of training, by one process without workers. Then the tiny model trains on the same batches.
Prints samples per second of CPU time, so that other work on the machine does not count, and memory: `own`
is what only this process has, `peak` includes pages of mapped files, which the system may take back.
"""

import argparse
import io
import json
import resource
import shutil
import tempfile
import time
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from minillava import checkpoints
from minillava.config import PRESETS
from minillava.convert import convert
from minillava.data import InstructionData, InstructionDataset
from minillava.published import check_layout
from minillava.records import load_records
from minillava.training import FeatureCache, Stage

PLACES = (
    "coco/train2017/{:012}.jpg",
    "vg/VG_100K/{}.jpg",
    "ocr_vqa/images/{}.jpg",
    "gqa/images/{}.jpg",
    "textvqa/train_images/{}.jpg",
)
EDGE, SHARED, BATCH = 64, 10, 16
"""Pixels of a picture's edge; records to a picture; samples to a batch."""


def generate(folder: Path, records: int) -> Path:
    """`records` records about pictures of noise; every sixteenth without one, as in the mixture."""
    draw = np.random.default_rng(0)
    for number in range(records // SHARED + 1):
        file = folder / PLACES[number % len(PLACES)].format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(coarse).resize((EDGE, EDGE)).save(stream, "JPEG")
        file.write_bytes(stream.getvalue())
    target = folder / "llava_v1_5_mix665k.json"
    with target.open("w") as out:
        for index in range(records):
            picture = PLACES[index // SHARED % len(PLACES)].format(index // SHARED)
            shown = index % 16 > 0
            turns = []
            for turn in range(1 + index % 4):
                seen = "<image>\n" * (shown and not turn)
                question = f"{seen}What color is the circle left of square {index + turn}?"
                turns += [{"from": "human", "value": question}, {"from": "gpt", "value": "It is red."}]
            record = {"id": index if index % 2 else f"{index:012}", "conversations": turns}
            record |= {"image": picture} if shown else {}
            out.write("[\n" if not index else ",\n")
            out.write(json.dumps(record))
        out.write("\n]\n")
    return target


def own_memory() -> float:
    """Megabytes that only this process has, by Linux's account."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1e3
    return float("nan")


def timed(what: str, run):
    """What `run()` returns; prints the CPU time and memory it took."""
    started = time.process_time()
    result = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    seconds = time.process_time() - started
    print(f"{what:<34}{seconds:8.1f} s   own {own_memory():7.0f} MB   peak {peak:7.0f} MB", flush=True)
    return result


def loader(source: Path, model, image_root: Path):
    stage = PRESETS["tiny"].stage("stage2")
    data = InstructionDataset(
        load_records(source),
        model.tokenizer,
        template=stage.template,
        aspect=stage.aspect,
        image_size=model.config.vision_config.image_size,
        num_image_tokens=model.num_image_tokens,
        image_root=image_root,
        max_length=stage.max_length,
    )
    return InstructionData(data, batch_size=BATCH).train_dataloader()


def epoch(batches, limit: int) -> float:
    """Samples per second of CPU time over `limit` samples; prints memory on the way."""
    count = max(1, limit // BATCH)
    marks = {count * k // 4 for k in range(1, 5)}
    started, samples = time.process_time(), 0
    for number, batch in enumerate(islice(batches, count), 1):
        samples += len(batch["ids"])
        if number in marks:
            print(f"    {samples:>7} samples: own {own_memory():7.0f} MB", flush=True)
    return samples / (time.process_time() - started)


def consumed(model, batches, steps: int) -> float:
    """Samples per second of CPU time that stage 2 of the tiny preset trains on, features not cached."""
    stage = PRESETS["tiny"].stage("stage2")
    module = Stage(model.train(), stage, steps, FeatureCache(0))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ready = list(islice(batches, steps))
    started = time.process_time()
    for batch in ready:
        optimizer.zero_grad()
        module.loss(batch).backward()
        optimizer.step()
    return sum(len(batch["ids"]) for batch in ready) / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--samples", type=int, help="read only so many of an epoch")
    parser.add_argument("--folder", type=Path, help="default: a temporary one; deleted at the end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="loader-", dir=args.folder))
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    try:
        preset = PRESETS["tiny"]
        model = checkpoints.from_bases(preset.vision_tower, preset.language_model)
        source = timed(f"generate {args.records} records", lambda: generate(folder, args.records))
        timed("check", lambda: check_layout(source))
        shards = folder / "shards"
        timed("convert to shards", lambda: convert(source, shards, folder, shard_records=20_000))
        rates = {}
        for name, data in {"shards": shards, "JSON and folders": source}.items():
            batches = timed(f"open {name}", lambda data=data: loader(data, model, folder))
            rates[name] = timed(
                f"read {name}", lambda b=batches: epoch(b, min(args.samples or args.records, args.records))
            )
        rate = timed("train", lambda: consumed(model, loader(shards, model, folder), 20))
        for name, read in rates.items():
            print(
                f"{name:<18}{read:8.0f} samples/s read, {rate:.0f} trained: {read / rate:.1f} times as many"
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
