"""Boxes of objects: read from files, placed by crops, and measured inside alone."""

import json
import math

import numpy as np
import pytest
import torch
from measures.tiny import batches, tokenizer
from PIL import Image
from skimage.metrics import structural_similarity
from training.launch import run_command
from training.runs import tiny_run

from imtok.data.order.loader import evaluation_loader
from imtok.data.reading.boxes import Boxes, with_boxes
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.folder import Folder
from imtok.data.sources.photos import photograph
from imtok.errors import InputError
from imtok.losses.lpips import LPIPSLoss
from imtok.measures.boxes import SIZES, BoxMeasure
from imtok.measures.crops import ResizeCrop
from imtok.measures.evaluate import evaluate
from imtok.measures.named import sections
from imtok.measures.protocol import Protocol, prepare
from imtok.measures.settings import Settings
from imtok.pixels import to_float, to_uint8
from imtok.training.run import train

SIZE = 64
BOXES = {  # x, y, width, height
    "a/0.png": [[10, 12, 32, 32], [30.5, 20.75, 8, 6.5], [0, 0, 64, 64]],
    "a/1.png": [[40, 1, 6, 3]],
    "b/2.png": [],
}


@pytest.fixture
def folder(tmp_path):
    pixels = photograph("astronaut").permute(1, 2, 0).numpy()
    for at, name in enumerate(["a/0.png", "a/1.png", "b/2.png", "b/3.png"]):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[90 * at : 90 * at + SIZE, 150 : 150 + SIZE].copy()).save(path)
    return tmp_path / "images"


def written(path, boxes):
    """The same boxes in a file of any kind."""
    rows = [(name, box) for name, own in boxes.items() for box in own]
    if path.suffix == ".csv":
        lines = ["file_name,x,y,width,height", *(",".join(map(str, (name, *box))) for name, box in rows)]
        path.write_text("\n".join(lines))
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps({"file_name": name, "boxes": own}) for name, own in boxes.items()))
    else:
        names = list(boxes)
        crowd = {"image_id": 0, "bbox": [0, 0, 5, 5], "iscrowd": 1}
        annotations = [{"image_id": names.index(name), "bbox": box, "iscrowd": 0} for name, box in rows]
        images = [{"id": at, "file_name": name} for at, name in enumerate(names)]
        path.write_text(json.dumps({"images": images, "annotations": [crowd, *annotations]}))
    return path


def boxed(folder, path, batch=2, protocol=None):
    data, protocol = Folder(folder), protocol or Protocol("offline", crop="none")
    images = prepare(with_boxes(data.evaluation(SIZE, "all"), path, data), protocol, None)
    return evaluation_loader(images, batch), Settings(sections(("boxes",)), protocol)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_numbers_are_those_of_the_pixels_inside_each_box(folder, tmp_path, suffix):
    loader, settings = boxed(folder, written(tmp_path / f"boxes{suffix}", BOXES), 1)
    made = tokenizer()
    report = evaluate(made, loader, settings=settings)
    psnrs, ssims = [], []
    for name, own in BOXES.items():
        target = np.asarray(Image.open(folder / name))
        with torch.no_grad():
            image = made(to_float(torch.from_numpy(target.copy()).permute(2, 0, 1)[None])).image
        image = to_uint8(image)[0].permute(1, 2, 0).numpy()
        similar = structural_similarity(
            target, image, channel_axis=2, full=True, gaussian_weights=True, use_sample_covariance=False, data_range=255
        )[1].mean(-1)
        for x, y, width, height in own:
            rows, columns = slice(int(y), math.ceil(y + height)), slice(int(x), math.ceil(x + width))
            error = np.square(target[rows, columns].astype(float) - image[rows, columns]).mean()
            psnrs.append(10 * np.log10(255**2 / error))
            whole = np.zeros_like(similar, dtype=bool)  # only pixels whose window lies inside of the image
            whole[5:-5, 5:-5] = True
            inside = np.zeros_like(whole)
            inside[rows, columns] = True
            part = similar[inside & whole]
            ssims += [part.mean()] if part.size else []
    assert (len(psnrs), len(ssims)) == (4, 3)  # the box at the upper edge has no whole window
    assert abs(report.metrics["boxes_psnr"] - np.mean(psnrs)) < 1e-6
    assert abs(report.metrics["boxes_ssim"] - np.mean(ssims)) < 1e-6
    assert abs(report.metrics["boxes_psnr_small"] - np.mean([psnrs[1], psnrs[3]])) < 1e-6
    assert abs(report.metrics["boxes_psnr_medium"] - np.mean([psnrs[0], psnrs[2]])) < 1e-6
    assert report.ids["boxes_psnr_small"]["boxes"] == 2
    assert report.absent["boxes_psnr_large"] == "no image has a large box"


def test_lpips_is_that_of_each_box_enlarged_to_what_the_net_needs(folder, tmp_path):
    loader, settings = boxed(folder, written(tmp_path / "boxes.jsonl", BOXES))
    settings.measures["boxes"]["backbone"] = "random"
    made, lpips, found = tokenizer(), LPIPSLoss("alex", "random"), []
    report = evaluate(made, loader, settings=settings)
    seen = {"a/0.png": [(10, 12, 42, 44), (18, 8, 50, 40), (0, 0, 64, 64)], "a/1.png": [(27, 0, 59, 32)]}
    for name, own in seen.items():
        target = torch.from_numpy(np.array(Image.open(folder / name))).permute(2, 0, 1)[None]
        with torch.no_grad():
            image = to_uint8(made(to_float(target)).image)
            for left, top, right, bottom in own:
                pair = [to_float(one[..., top:bottom, left:right]) for one in (image, target)]
                found.append(lpips.per_image(*pair).item())
    assert abs(report.metrics["boxes_lpips_alex_random"] - np.mean(found)) < 1e-6
    assert abs(report.metrics["boxes_lpips_alex_random_small"] - np.mean([found[1], found[3]])) < 1e-6
    assert report.ids["boxes_lpips_alex_random"]["boxes"] == 4


def test_lpips_without_its_weights_is_left_out_with_the_reason(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "nothing"))
    loader, settings = boxed(folder, written(tmp_path / "boxes.jsonl", BOXES))
    report = evaluate(tokenizer(), loader, settings=settings)
    assert report.absent["boxes_lpips_alex"].startswith("alexnet-owt-7be5be79.pth is not in the cache of torch.hub")
    assert report.absent["boxes_lpips_alex"].endswith("measure.boxes.backbone=PATH")
    assert "boxes_psnr" in report.metrics
    settings.measures["boxes"]["backbone"] = str(tmp_path / "absent.pth")
    with pytest.raises(InputError, match=r"absent\.pth"):
        evaluate(tokenizer(), loader, settings=settings)


def test_numbers_do_not_depend_on_the_batch(folder, tmp_path):
    path = written(tmp_path / "boxes.jsonl", BOXES)
    protocol = Protocol("offline")
    found = [
        evaluate(tokenizer(), loader, settings=settings).metrics
        for loader, settings in (boxed(folder, path, batch, protocol) for batch in (1, 3))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("size", [(40, 300), (500, 90), (128, 128), (61, 47), (32, 32)])
@pytest.mark.parametrize("crop", [CentreCrop(32), ResizeCrop(32, "bilinear")])
def test_a_box_is_where_the_crop_shows_its_object(size, crop):
    height, width = size
    image = torch.zeros(1, height, width)
    box = np.array([[width / 2 - height / 8, height * 0.4, width / 2 + height / 8, height * 0.6]]).round()
    left, top, right, bottom = box[0].astype(int).tolist()
    image[:, top:bottom, max(left, 0) : right] = 255.0
    made = crop(image, np.random.default_rng(0))[0]
    found = crop.placed(box, size)[0]
    rows, columns = (torch.nonzero(made.mean(axis) > 0.5 * made.mean(axis).max())[:, 0] for axis in (1, 0))
    shown = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    assert np.abs(np.clip(found, 0, 32) - shown).max() <= 1


def test_boxes_that_a_crop_cuts_away_are_left_out_and_counted(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = photograph("coffee").permute(1, 2, 0).numpy()[:64, :160]
    Image.fromarray(pixels.copy()).save(tmp_path / "images/0.png")
    path = written(
        tmp_path / "boxes.csv", {"0.png": [[0, 0, 40, 60], [70, 20, 20, 20], [30, 10, 35, 30], [28, 9, 40, 30]]}
    )
    loader, settings = boxed(tmp_path / "images", path, 1, Protocol("offline"))
    report = evaluate(tokenizer(), loader, settings=settings)
    assert report.ids["boxes_psnr"]["boxes"] == 2
    assert report.ids["boxes_psnr"]["left_out"] == 2  # all of the first, and just more than half of the third
    assert report.ids["boxes_psnr_medium"]["boxes"] == 1  # the last one, whose size counts with what is cut away


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        (
            {"a/0.png": [[60, 10, 10, 10]]},
            r"a/0.png has 64 x 64 pixels .* its box \[60, 10, 10, 10\] lies outside",
        ),
        ({"a/0.png": [[-9, 1, 10, 10], [1, 60, 9, 9]]}, r"\(and 1 more\); correct or remove it$"),
        ({"a/0.png": [[1, 2, 0, 4]]}, r"line 1 \(a/0.png\): the box \[1, 2, 0, 4\] has no area"),
        ({"a/0.png": [[1, 2, 3]]}, r"line 1 \(a/0.png\): a box must be \[x, y, width, height\] .* got \[1, 2, 3\]"),
        ({"a/0.png": [[1, 2, "three", 4]]}, r"a box must be \[x, y, width, height\]"),
        ({"a/9.png": [[1, 2, 3, 4]]}, r"names an image that is not in the data: a/9.png; .* such as a/0.png"),
        ({"": [[1, 2, 3, 4]]}, r"line 1 names no image \(file_name\)"),
    ],
)
def test_boxes_that_cannot_be_are_named_in_one_line(folder, tmp_path, boxes, said):
    path = written(tmp_path / "boxes.jsonl", boxes)
    data = Folder(folder)
    with pytest.raises(InputError, match=said) as caught:
        with_boxes(data.evaluation(SIZE, "all"), path, data)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("boxes.txt", "", "must be a file .json, .jsonl, .csv"),
        ("boxes.csv", "file_name,x,y\na,1,2", "has no column width, height"),
        ("boxes.json", "[]", "have the lists images and annotations"),
        ("boxes.json", '{"images": [], "annotations": [{"image_id": 3, "bbox": [1, 2, 3, 4]}]}', "no image_id that is"),
        ("boxes.jsonl", '{"file_name": "a"}', "line 1 has no list of boxes"),
    ],
)
def test_files_that_hold_no_boxes_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        Boxes(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        Boxes(tmp_path / "absent.csv")


def test_names_without_suffix_and_those_of_a_split_that_is_not_measured_are_known(folder, tmp_path):
    path = written(tmp_path / "boxes.csv", {"a/0.jpg": [[1, 2, 3, 4]], "b/3.png": [[5, 6, 7, 8]]})
    data = Folder(folder, val_fraction=0.3)
    images = with_boxes(data.evaluation(SIZE, "val"), path, data)
    every = with_boxes(data.evaluation(SIZE, "all"), path, data)
    assert every[0, 0].boxes.tolist() == [[1, 2, 4, 6]]
    assert every[0, 1].boxes.tolist() == []
    assert len(images) < len(every)


def test_names_are_paths_however_written_and_a_stem_that_two_have_is_none(folder, tmp_path):
    source, path = Folder(folder).evaluation(SIZE, "all").source, tmp_path / "boxes.jsonl"
    objects = {"file_name": "./a//1.png", "objects": {"bbox": [[1, 2, 3, 4]]}}  # as in Hugging Face's image folders
    path.write_text(json.dumps(objects))
    assert Boxes(path).of(source, 1).tolist() == [[1, 2, 4, 6]]
    both = Boxes(written(path, {"a/0.png": [[1, 2, 3, 4]], "a/0.jpg": [], "a/1.jpg": [], "a/1.webp": []}))
    assert [both.name(source, index) for index in range(2)] == ["a/0.png", None]


def test_a_box_may_reach_less_than_a_pixel_beyond_its_image(folder, tmp_path):
    data = Folder(folder)
    for over, refused in ((0.9, False), (1.1, True)):
        path = written(tmp_path / "boxes.jsonl", {"a/0.png": [[-over, 1, 9, 9]], "a/1.png": [[60, 1, 4 + over, 9]]})
        if refused:
            with pytest.raises(InputError, match="and 1 more"):
                with_boxes(data.evaluation(SIZE, "all"), path, data)
        else:
            assert len(with_boxes(data.evaluation(SIZE, "all"), path, data)[0, 0].boxes) == 1


def test_the_command_measures_boxes_or_says_what_it_needs(folder, tmp_path):
    made = tokenizer()
    made.save(tmp_path / "tokenizer")
    given = ["tokenizer=tokenizer", "data=folder", "data.path=images", "metrics=[boxes,psnr]", "protocol=offline"]
    written(tmp_path / "boxes.jsonl", {"a/0.png": [[8, 8, 40, 40]]})
    done = run_command("eval", *given, "out=report", "data.boxes=boxes.jsonl", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert {"boxes_psnr", "boxes_ssim", "boxes_psnr_small", "psnr"} <= report["metrics"].keys()
    done = run_command("eval", *given, "out=other", folder=tmp_path)
    assert done.returncode == 2
    assert "metrics=[boxes] reads the boxes of objects" in done.stderr
    found = evaluate(made, batches(range(3), 3), settings=Settings(sections(("boxes",)))).absent
    assert found["boxes_psnr"].endswith("give data.boxes=FILE (docs/data.md)")


def test_a_run_measures_boxes_on_the_way(folder, tmp_path):
    held = ["data=folder", f"data.path={folder / 'b'}", f"data.val_path={folder / 'a'}", "measure=[boxes]"]
    held += ["trainer.evaluate_every=1", "trainer.max_steps=1", "trainer.batch_size=2"]
    with pytest.raises(InputError, match=r"give data.boxes=FILE"):
        train(tiny_run(tmp_path / "run", *held))
    assert not (tmp_path / "run").exists()
    path = written(tmp_path / "boxes.jsonl", {"0.png": [[8, 8, 40, 40]]})
    train(tiny_run(tmp_path / "run", *held, f"data.boxes={path}"))
    assert "boxes_psnr" in (tmp_path / "run/evaluation.csv").read_text()


@pytest.mark.parametrize("arguments", [{"small": 96}, {"visible": 0.0}, {"small": 0}])
def test_limits_that_leave_no_size_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        BoxMeasure(**arguments)


def test_sizes_are_those_of_coco():
    measure = BoxMeasure()
    assert [SIZES[measure._size(side**2)] for side in (31.9, 32.0, 95.9, 96.0)] == [
        "small",
        "medium",
        "medium",
        "large",
    ]
