"""Directories that TFDS prepared itself, as tfrecord, read without TensorFlow."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from ebm_jax.data import load_dataset
from ebm_jax.data.storage.prepare import find_prepared
from ebm_jax.data.storage.tfrecord import masked_crc32c, read_records

# What tensorflow.io.TFRecordWriter writes for b'abc' and b''.
WRITTEN = bytes.fromhex(
    "0300000000000000b099490e6162636e57f121" + "000000000000000029039807d8ea82a2"
)


def test_reads_what_tensorflow_writes(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(WRITTEN)
    assert list(read_records(path)) == list(read_records(str(path))) == [b"abc", b""]
    path.write_bytes(b"")
    assert list(read_records(path)) == []


def test_crc_of_the_standard_check_string():
    crc = 0xE3069283  # of b'123456789', as in RFC 3720's polynomial
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize(
    ("cut", "at"), [(5, 0), (12, 0), (17, 0), (18, 0), (25, 19), (31, 19), (34, 19)]
)
def test_cut_short(tmp_path, cut, at):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(WRITTEN[:cut])
    with pytest.raises(ValueError, match=rf"x.tfrecord is damaged at byte {at}; prepare"):
        list(read_records(path))


def test_flipped_length(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"\x02" + WRITTEN[1:])
    with pytest.raises(ValueError, match="damaged at byte 0"):
        list(read_records(path))


def write_records(path, records):
    with path.open("wb") as file:
        for record in records:
            length = len(record).to_bytes(8, "little")
            for part in (length, record):
                file.write(part + masked_crc32c(part).to_bytes(4, "little"))


@pytest.fixture
def tfds_mnist(tmp_path):
    """`mnist/3.0.1` as TFDS's own builder leaves it: PNG images, two shards of 3 and 2."""
    from tensorflow_datasets.proto import tf_example_pb2

    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1)).astype(np.uint8)
    labels = [3, 1, 4, 1, 5]
    records = []
    for image, label in zip(images, labels, strict=True):
        png = io.BytesIO()
        Image.fromarray(image[..., 0]).save(png, "PNG")
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(png.getvalue())
        example.features.feature["label"].int64_list.value.append(label)
        records.append(example.SerializeToString())
    directory = tmp_path / "mnist" / "3.0.1"
    directory.mkdir(parents=True)
    write_records(directory / "mnist-train.tfrecord-00000-of-00002", records[:3])
    write_records(directory / "mnist-train.tfrecord-00001-of-00002", records[3:])
    info = {
        "fileFormat": "tfrecord",
        "name": "mnist",
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": "train",
                "numBytes": str(sum(map(len, records))),
                "shardLengths": ["3", "2"],
            }
        ],
        "version": "3.0.1",
    }
    (directory / "dataset_info.json").write_text(json.dumps(info))
    module = "tensorflow_datasets.core.features."
    features = {
        "image": {
            "pythonClassName": module + "image_feature.Image",
            "image": {"dtype": "uint8", "shape": {"dimensions": ["28", "28", "1"]}},
        },
        "label": {
            "pythonClassName": module + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "10"},
        },
    }
    (directory / "features.json").write_text(
        json.dumps(
            {
                "pythonClassName": module + "features_dict.FeaturesDict",
                "featuresDict": {"features": features},
            }
        )
    )
    return directory, images, labels


def test_directory_of_tfds(tfds_mnist):
    directory, images, labels = tfds_mnist
    dataset = load_dataset("mnist", data_dir=directory.parents[1])
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.labels.tolist() == labels
    assert dataset.num_classes == 10


def test_newest_version_is_read(tfds_mnist):
    directory, images, _ = tfds_mnist
    older = directory.parent / "2.10.0"
    older.mkdir()
    (older / "dataset_info.json").write_text("{}")
    dataset = load_dataset("mnist", data_dir=directory.parents[1])
    assert len(dataset.images) == len(images)


def test_where_nothing_can_be_written_it_is_decoded_into_memory(tfds_mnist):
    directory, images, _ = tfds_mnist
    data_dir = directory.parents[1]
    (data_dir / "ebm_jax").write_text("a file where the folder of decoded images would be")
    dataset = load_dataset("mnist", data_dir=data_dir)
    np.testing.assert_array_equal(dataset.images, images)


def test_versions_are_compared_as_numbers(tmp_path):
    assert find_prepared(tmp_path, "mnist") is None
    for version in ("3.0.1", "10.0.0", "9.9.9", "11.0.0.incomplete", "12.0.0"):
        (tmp_path / "mnist" / version).mkdir(parents=True)
        if version != "12.0.0":
            (tmp_path / "mnist" / version / "dataset_info.json").write_text("{}")
    assert find_prepared(tmp_path, "mnist") == tmp_path / "mnist" / "10.0.0"


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "svhn"])
def test_sets_that_tfds_has_too_are_found_by_its_names(tmp_path, name):
    directory = tmp_path / {"svhn": "svhn_cropped"}.get(name, name) / "3.0.1"
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"^{directory} is not a prepared data set, "):
        load_dataset(name, data_dir=tmp_path)


def test_files_of_another_format(tfds_mnist):
    directory, *_ = tfds_mnist
    info = directory / "dataset_info.json"
    info.write_text(info.read_text().replace('"tfrecord"', '"riegeli"'))
    with pytest.raises(ValueError, match=r" is in format riegeli; array_record or tfrecord is rea"):
        load_dataset("mnist", data_dir=directory.parents[1])


@pytest.mark.parametrize("damage", ["shard cut", "shard missing", "record missing", "no features"])
def test_damaged_directory(tfds_mnist, damage):
    directory, _, _ = tfds_mnist
    shard = directory / "mnist-train.tfrecord-00001-of-00002"
    if damage == "shard cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "shard missing":
        shard.unlink()
    elif damage == "record missing":
        write_records(shard, list(read_records(shard))[:1])
    else:
        (directory / "features.json").unlink()
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        load_dataset("mnist", data_dir=directory.parents[1])
    if damage == "record missing":
        assert str(caught.value).startswith(f"{directory} holds 4 images where 5 were announced")
    else:
        assert str(caught.value).startswith(
            f"{directory} is not a prepared data set, or is damaged"
        )
