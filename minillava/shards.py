"""A folder of parquet files that are one set of records, as `convert` writes them: 00000-of-00012.parquet, …

What is read is kept as an Arrow file in the cache of `datasets`, memory-mapped: a picture costs memory only
while somebody looks at it, however many there are.
"""

import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path

import datasets
import pyarrow.compute
import pyarrow.parquet
from tqdm import tqdm

NUMBERED = re.compile(r"(\d+)-of-(\d+)\.parquet$")

Skip = Callable[[str], None]
"""Is told, in a sentence, of a shard that is left out."""


def shard_name(number: int, shards: int) -> str:
    """`00003-of-00012.parquet`: a name that says what else there has to be."""
    return f"{number:05}-of-{shards:05}.parquet"


def shard_files(folder: Path, skip: Skip | None = None) -> list[Path]:
    """The shards of a folder in their order. ValueError if there are none or if, by the names of the others,
    one is missing; with `skip` only that is told."""
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ValueError(f"{folder} holds no .parquet files: give the folder that `convert` made, or a file.")
    numbered = [NUMBERED.search(file.name) for file in files]
    if all(numbered):  # `convert`'s names, or the hub's, which begin with the split's
        wanted = {
            f"{file.name[: found.start()]}{number:0{len(found[1])}}-of-{found[2]}.parquet"
            for file, found in zip(files, numbered, strict=True)
            for number in range(int(found[2]))
        }
        if absent := sorted(wanted - {file.name for file in files}):
            reason = f"{folder} has no {', '.join(absent)}: copy what is missing, or convert again."
            if skip is None:
                raise ValueError(reason)
            skip(reason)
    return files


def opened(file: Path) -> pyarrow.parquet.ParquetFile:
    """A parquet file of records; ValueError, naming it, if it is cut off or something else."""
    try:
        found = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file} is cut off or no parquet file: {str(error).rstrip('.')}.") from error
    if "conversations" not in found.schema_arrow.names:
        raise ValueError(f"{file} has no column `conversations`, only {found.schema_arrow.names}.")
    return found


def read_shards(folder: Path, skip: Skip | None = None) -> datasets.Dataset:
    """All records of a folder, in the order of its shards.

    Raises ValueError, naming the shard, for one that is missing, cut off or damaged; `skip` is told of it
    instead, and the others are read.
    """
    tables = []
    for file in tqdm(shard_files(folder, skip), desc=folder.name, unit=" shards"):
        try:
            opened(file).close()
            tables.append(_cached(file))
        except ValueError as error:
            reason = f"{error} Copy or convert it again."
            if skip is None:
                raise ValueError(f"{reason} Or leave its records out: train with --skip-broken.") from error
            skip(f"left out: {reason}")
    if not tables:
        raise ValueError(f"None of the shards of {folder} can be read.")
    return datasets.concatenate_datasets(tables)


def _cached(file: Path) -> datasets.Dataset:
    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # one bar for all shards is enough
    try:
        return datasets.Dataset.from_parquet(str(file))
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"{file} is damaged: {str(error.__cause__).splitlines()[0]}") from error
    finally:
        if not bars:
            datasets.enable_progress_bars()


def is_any_list(kind: pyarrow.DataType) -> bool:
    """Whether a column holds lists, however parquet's writer stored them."""
    types = pyarrow.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def with_picture(images: pyarrow.ChunkedArray) -> list[bool]:
    """Where a column of pictures, of lists of them or of paths is not empty."""
    compute, kind = pyarrow.compute, images.type
    if is_any_list(kind):
        size = compute.list_value_length(images)
    elif pyarrow.types.is_struct(kind):
        names = [field.name for field in kind if field.name in ("bytes", "path")]
        sizes = [compute.binary_length(compute.struct_field(images, name)) for name in names]
        size = reduce(compute.add, (compute.fill_null(one, 0) for one in sizes))
    else:
        size = compute.binary_length(images)
    return compute.greater(compute.fill_null(size, 0), 0).to_pylist()
