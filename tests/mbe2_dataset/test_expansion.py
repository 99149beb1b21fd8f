"""Offline expansion: where the subject is, and views of it that can be made again and never lie about lettering."""

import json
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from mbe2_dataset.catalogue.pictures import Picture, decode, encode
from mbe2_dataset.catalogue.store import Row
from mbe2_dataset.coaugmentation import operations
from mbe2_dataset.coaugmentation.operations import ExpandPictures
from mbe2_dataset.coaugmentation.pictures.classical import ClassicalExtractor, nearest_core_colours
from mbe2_dataset.coaugmentation.pictures.expand import KINDS, apply_view, expand, kinds_for, make_view, source_image
from mbe2_dataset.coaugmentation.pictures.views import apply_viewpoint
from mbe2_dataset.synthetic.catalogue import _is_cluttered, synthetic_photo

EXTRACTOR = ClassicalExtractor()
FASHION = Path(__file__).resolve().parents[2] / "shared/data/fashion/validation-00000-of-00001.parquet"


def iou(mask, truth) -> float:
    found = np.asarray(mask) > 127
    return (found & truth).sum() / (found | truth).sum()


def canvas(colour=(240, 240, 240), size=(160, 200)) -> Image.Image:
    return Image.new("RGB", size, colour)


def shirt(colour=(40, 60, 160), background=(240, 240, 240), size=(160, 200)) -> tuple[Image.Image, np.ndarray]:
    """A T-shirt with an 'F' on it, and its mask."""
    # Drawn three times as large and reduced: a photo has no edge as hard as a drawing's.
    width, height = 3 * size[0], 3 * size[1]
    image, mask = canvas(background, (width, height)), Image.new("L", (width, height))
    outline = [(0.3, 0.2), (0.7, 0.2), (0.9, 0.35), (0.8, 0.45), (0.7, 0.38), (0.7, 0.8), (0.3, 0.8), (0.3, 0.38),
               (0.2, 0.45), (0.1, 0.35)]  # fmt: skip
    for drawing, fill in ((image, colour), (mask, 255)):
        ImageDraw.Draw(drawing).polygon([(x * width, y * height) for x, y in outline], fill=fill)
    draw = ImageDraw.Draw(image)
    for box in ((0.42, 0.4, 0.46, 0.6), (0.42, 0.4, 0.58, 0.43), (0.42, 0.48, 0.54, 0.51)):
        draw.rectangle([v * (width, height)[n % 2] for n, v in enumerate(box)], fill=(250, 220, 40))
    return image.reduce(3), np.asarray(mask.reduce(3)) > 127


def row(image: Image.Image | bytes, name="r1") -> Row:
    picture = encode(image, "a.jpg") if isinstance(image, Image.Image) else Picture(image, "a.jpg")
    return Row(name, "Blue shirt", None, None, ("Tops",), (), None, (picture,), "train", name)


def test_subjects_of_synthetic_photos_are_found_and_clutter_is_mostly_refused():
    plain, cluttered = [], []
    for index in range(50):
        name = f"p{index:06d}-0"
        image, truth = synthetic_photo(name, 0, 0, 224)
        subject = EXTRACTOR(image)
        overlap = iou(subject.mask, truth) if subject.mask else None
        (cluttered if _is_cluttered(name, 0) else plain).append(overlap)
    found = [overlap for overlap in plain if overlap is not None]
    print(f"\nIoU on {len(plain)} plain photos: {len(found)} found, mean {np.mean(found):.3f}, least {min(found):.3f}; "
          f"{len(cluttered)} cluttered photos: {cluttered.count(None)} refused")  # fmt: skip
    assert len(found) >= 0.95 * len(plain)
    assert np.mean(found) > 0.97 and min(found) > 0.85
    assert cluttered.count(None) >= 0.6 * len(cluttered)


@pytest.mark.parametrize("side", [16, 20, 24, 25])
def test_the_subject_of_an_icon_is_found(side):
    image = canvas(size=(side, side))
    box = (side // 4, side // 4, 3 * side // 4, 3 * side // 4)
    ImageDraw.Draw(image).rectangle(box, fill=(30, 30, 160))
    truth = np.asarray(image)[..., 0] == 30
    assert iou(EXTRACTOR(image).mask, truth) > 0.8


def test_a_thumbnail_and_a_grey_picture_are_enough():
    image, truth = shirt(size=(60, 80))
    assert iou(EXTRACTOR(image).mask, truth) > 0.9
    assert iou(EXTRACTOR(image.convert("L").convert("RGB")).mask, truth) > 0.9


def test_pale_goods_on_white():
    image, truth = shirt(colour=(238, 238, 236), background=(255, 255, 255))
    assert iou(EXTRACTOR(image).mask, truth) > 0.95


def test_a_soft_shadow_on_the_ground_is_no_part_of_the_subject():
    image, truth = shirt(background=(235, 235, 235))
    shade = Image.new("L", image.size, 0)
    ImageDraw.Draw(shade).ellipse((30, 150, 130, 180), fill=45)
    shade = shade.filter(ImageFilter.GaussianBlur(8))
    shaded = Image.composite(Image.new("RGB", image.size), image, shade)
    shaded.paste(image, mask=Image.fromarray(truth.astype(np.uint8) * 255))
    assert iou(EXTRACTOR(shaded).mask, truth) > 0.87


def test_the_opening_of_a_handle_is_background():
    image = canvas()
    draw = ImageDraw.Draw(image)
    draw.rectangle((40, 100, 120, 170), fill=(120, 60, 30))
    draw.ellipse((50, 40, 110, 140), outline=(120, 60, 30), width=8)
    mask = np.asarray(EXTRACTOR(image).mask)
    assert mask[75, 80] == 0 and mask[140, 80] == 255 and mask[75, 53] > 200


def test_the_outline_is_soft_and_says_how_much_is_product():
    image, truth = shirt(size=(480, 600))
    small = image.resize((160, 200), Image.Resampling.BOX)
    alpha = np.asarray(Image.fromarray(truth.astype(np.uint8) * 255).resize((160, 200), Image.Resampling.BOX)) / 255
    mixed = (alpha > 0.2) & (alpha < 0.8)
    found = np.asarray(EXTRACTOR(small).mask) / 255
    assert np.abs(found - alpha)[mixed].mean() < 0.13


def halves() -> Image.Image:
    image = canvas((200, 30, 30))
    image.paste((30, 30, 200), (0, 0, 80, 200))
    return image


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 120, 3), dtype=np.uint8))


def faint() -> Image.Image:
    """Face and trousers of a person whose white shirt can only be told by its buttons and folds."""
    image = canvas((255, 255, 255), (220, 220))
    draw = ImageDraw.Draw(image)
    draw.ellipse((95, 10, 125, 45), fill=(170, 120, 90))
    draw.rectangle((80, 195, 140, 220), fill=(30, 30, 60))
    for y in range(70, 180, 6):
        draw.line((70, y, 150, y + 3), fill=(245, 245, 245), width=2)
    return image


@pytest.mark.parametrize(
    "image, words",
    [
        (canvas(), "nothing"),
        (halves(), "whole side"),
        (noise(), "frame"),
        (faint(), "only a part of the subject"),
        (Image.new("RGB", (10, 400), "red"), "smaller than 16"),
    ],
)
def test_it_knows_when_it_fails(image, words):
    subject = EXTRACTOR(image)
    assert subject.mask is None and re.search(words, subject.reason), subject
    assert make_view(image, None, "viewpoint", 0, "v.jpg")[0].bytes


def test_the_nearest_colours_of_the_core_are_found():
    random = np.random.default_rng(0)
    pixels, core = random.integers(0, 256, (20, 30, 3), dtype=np.uint8), random.random((20, 30)) < 0.05
    wanted = np.flatnonzero(~core)
    here, there = (np.stack(np.unravel_index(places, core.shape), axis=1) for places in (wanted, np.flatnonzero(core)))
    distances = np.linalg.norm(here[:, None] - there[None], axis=-1)
    found = nearest_core_colours(pixels, core, wanted)
    taken = (found[:, None] == pixels[core][None]).all(axis=-1)
    # OpenCV's distances are exact to 2 %: of two that are about as near it may take either.
    assert (np.where(taken, distances, 99).min(axis=1) <= distances.min(axis=1) * 1.03).all()


def test_views_do_not_depend_on_the_number_of_threads():
    source, threads = row(shirt(size=(320, 400))[0]), cv2.getNumThreads()
    assert threads == 1
    alone = expand(source, EXTRACTOR, None, 8, seed=0)
    try:
        cv2.setNumThreads(4)
        assert expand(source, EXTRACTOR, None, 8, seed=0) == alone
    finally:
        cv2.setNumThreads(threads)


def test_another_drawing_makes_views_anew_but_not_those_that_were_paid(monkeypatch):
    editor = SimpleNamespace(model="m", revision="r", prompt_version="p")
    drawn, paid = (ExpandPictures(EXTRACTOR, one, 1, 0, "processes") for one in (None, editor))
    before = drawn.identity(), paid.identity()
    monkeypatch.setattr(operations, "DRAWING", operations.DRAWING + 1)
    assert drawn.identity() != before[0] and paid.identity() == before[1]
    monkeypatch.setattr(ClassicalExtractor, "revision", "another")
    assert paid.identity() != before[1], "the subject that it was shown was another one"


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_make_the_same_view_again(kind):
    image, _ = shirt()
    subject = EXTRACTOR(image)
    for seed in range(8):
        picture, parameters = make_view(image, subject.mask, kind, seed, "v.jpg")
        again = apply_view(image, EXTRACTOR(image).mask, json.loads(json.dumps(parameters)))
        assert encode(again, "v.jpg") == picture
        assert make_view(image, subject.mask, kind, seed, "v.jpg") == (picture, parameters)
        assert np.abs(np.asarray(decode(picture).resize(image.size), float) - np.asarray(image)).mean() > 2
    assert make_view(image, subject.mask, kind, 99, "v.jpg")[0] != picture


@pytest.mark.parametrize("kind", ["background", "viewpoint", "lighting"])
def test_no_view_is_mirrored(kind):
    image, _ = shirt()
    mask = EXTRACTOR(image).mask
    lettering = np.asarray(image.convert("L").crop((60, 75, 100, 125)))

    def best_match(view: Image.Image) -> float:
        """The highest correlation of the lettering with any place of the view, over sizes."""
        sizes = ([round(side * scale) for side in view.size] for scale in (0.8, 0.9, 1.0, 1.1, 1.25))
        views = (np.asarray(view.convert("L").resize(size)) for size in sizes)
        return max(cv2.matchTemplate(view, lettering, cv2.TM_CCOEFF_NORMED).max() for view in views)

    view = decode(make_view(image, mask, kind, 1, "v.jpg")[0])
    assert best_match(view) > best_match(ImageOps.mirror(view)) + 0.05


def test_a_new_background_leaves_the_subject_and_shows_no_halo():
    image, truth = shirt(background=(255, 255, 255))
    blurred = image.filter(ImageFilter.GaussianBlur(0.8))
    mask = EXTRACTOR(blurred).mask
    dark = {"kind": "background", "style": "studio", "colour": [20, 60, 20], "shadow": "contact", "shadow_strength": 0}
    view = np.asarray(apply_view(blurred, mask, dark), float)
    core = np.asarray(Image.fromarray(truth).convert("L").filter(ImageFilter.MinFilter(9))) > 0
    assert np.abs(view - np.asarray(blurred))[core].max() == 0
    # Neither the dark background nor the blue shirt is bright: white along the outline would be the old background.
    rim = np.asarray(Image.fromarray(truth).convert("L").filter(ImageFilter.MaxFilter(7))) > 0
    rim &= np.asarray(Image.fromarray(truth).convert("L").filter(ImageFilter.MinFilter(7))) == 0
    assert (view[rim].min(axis=1) > 80).mean() < 0.02


def test_a_white_background_is_not_replaced_by_white():
    image, _ = shirt(background=(255, 255, 255))
    mask = EXTRACTOR(image).mask
    styles = {make_view(image, mask, "background", seed, "v.jpg")[1]["style"] for seed in range(40)}
    assert styles == {"studio", "gradient", "texture"}


def test_a_background_without_a_subject_is_refused():
    with pytest.raises(ValueError, match="needs the mask"):
        make_view(canvas(), None, "background", 0, "v.jpg")


def test_a_viewpoint_keeps_the_whole_subject():
    image, _ = shirt(colour=(200, 30, 30))
    mask = EXTRACTOR(image).mask
    shown = Image.merge("RGB", [mask] * 3)
    for seed in range(30):
        _, parameters = make_view(image, mask, "viewpoint", seed, "v.jpg")
        view = np.asarray(apply_viewpoint(shown, mask, parameters))[..., 0]
        assert max(view[0].max(), view[-1].max(), view[:, 0].max(), view[:, -1].max()) < 128, parameters


def test_what_lies_beyond_a_cut_is_not_invented():
    image = canvas()
    ImageDraw.Draw(image).rectangle((50, 60, 110, 200), fill=(180, 20, 20))
    mask = EXTRACTOR(image).mask
    for seed in range(30):
        parameters = make_view(image, mask, "viewpoint", seed, "v.jpg")[1]
        assert parameters["window"][3] <= 1 and parameters["rotation"] == 0


def test_the_detail_is_the_print():
    image, _ = shirt()
    for seed in range(10):
        left, upper, right, lower = make_view(image, EXTRACTOR(image).mask, "detail", seed, "v.jpg")[1]["box"]
        assert left <= 72 and right >= 88 and upper <= 84 and lower >= 110, "the letter's middle must be in it"


def test_the_detail_of_a_person_is_not_the_face():
    image = canvas(size=(200, 260))
    draw = ImageDraw.Draw(image)
    draw.rectangle((50, 90, 150, 250), fill=(30, 90, 60))
    draw.ellipse((75, 15, 125, 90), fill=(214, 160, 130))
    for x, y in ((88, 42), (105, 42)):
        draw.ellipse((x, y, x + 8, y + 8), fill=(20, 20, 20))
    draw.line((85, 72, 115, 72), fill=(120, 20, 30), width=4)
    draw.text((80, 150), "AB 12", fill=(240, 240, 240), font_size=18)
    box = make_view(image, EXTRACTOR(image).mask, "detail", 0, "v.jpg")[1]["box"]
    assert box[1] > 80, box


def test_a_product_without_any_detail_has_no_view_of_it():
    """Details of black leather would be the same black square for all products, in train and test."""
    image = canvas()
    ImageDraw.Draw(image).rectangle((40, 60, 120, 160), fill=(20, 20, 20))
    views = expand(row(image), EXTRACTOR, None, 4, seed=0).views
    assert {view.operation for view in views} == set(KINDS)
    for view in views:
        assert view.kept == (view.operation != "detail") == (view.picture is not None)
        assert ("of one colour" in view.reason) == (view.operation == "detail")
    ImageDraw.Draw(image).text((70, 100), "AB", fill=(240, 240, 240), font_size=24)
    assert all(view.kept for view in expand(row(image), EXTRACTOR, None, 4, seed=0).views)


def test_each_product_has_its_own_order_and_every_kind_before_one_again():
    orders = {kinds_for(f"p{index}", 6, 0) for index in range(50)}
    assert len(orders) > 10
    for order in orders:
        assert set(order[:4]) == set(KINDS) and order[4:] == order[:2]
    assert kinds_for("p1", 6, 0) == kinds_for("p1", 6, 0) != kinds_for("p1", 6, 7)


def test_expand_makes_kept_views_that_their_record_makes_again():
    source = row(shirt()[0])
    expansion = expand(source, EXTRACTOR, None, 6, seed=3)
    assert expansion == pickle.loads(pickle.dumps(expand(source, pickle.loads(pickle.dumps(EXTRACTOR)), None, 6, 3)))
    assert [view.operation for view in expansion.views] == list(kinds_for("r1", 6, 3))
    assert len({view.picture.sha256 for view in expansion.views}) == 6
    assert expansion.reason == "" and 0.1 < expansion.coverage < 0.5
    image = source_image(source)
    mask = EXTRACTOR(image).mask
    for view in expansion.views:
        assert view.kept and view.reason == "" and (view.model, view.revision) == ("classical", EXTRACTOR.revision)
        assert encode(apply_view(image, mask, view.parameters), view.picture.path) == view.picture


def test_expand_without_a_subject_uses_what_needs_no_mask():
    expansion = expand(row(noise()), EXTRACTOR, None, 5, seed=0)
    assert "frame" in expansion.reason and all(view.kept for view in expansion.views)
    assert {view.operation for view in expansion.views} == {"viewpoint", "lighting", "detail"}


def test_an_unreadable_picture_is_a_reason_and_not_an_exception():
    expansion = expand(row(b"<html>not found</html>"), EXTRACTOR, None, 2, seed=0)
    assert "cannot be read" in expansion.reason
    assert [(view.picture, view.kept, view.reason) for view in expansion.views] == [(None, False, expansion.reason)] * 2


def test_large_pictures_are_bounded():
    image, _ = shirt(size=(1800, 2400))
    sizes = [decode(view.picture).size for view in expand(row(image), EXTRACTOR, None, 4, 0).views]
    assert max(max(size) for size in sizes) == 768


def test_pictures_of_every_shape_are_expanded():
    for size in ((1, 1), (1, 200), (300, 2), (17, 16), (900, 40)):
        for view in expand(row(Image.new("RGB", size, (200, 30, 30)), str(size)), EXTRACTOR, None, 3, 0).views:
            assert view.kept == (view.operation != "detail"), view


@pytest.mark.skipif(not FASHION.exists(), reason="needs the fashion photos in ../shared/data")
def test_real_catalogue_photos_have_subjects_in_their_middle():
    import pyarrow.parquet as pq

    images = pq.read_table(FASHION, columns=["images"]).slice(0, 60)["images"].to_pylist()
    subjects = [EXTRACTOR(decode(Picture(image[0]["bytes"], "x"))) for image in images]
    found = [subject for subject in subjects if subject.mask]
    assert len(found) >= 52
    centres = [np.asarray(subject.mask, float) for subject in found]
    assert np.mean([mask[mask.shape[0] // 4 : -mask.shape[0] // 4].mean() > mask.mean() for mask in centres]) > 0.9
