"""Pixels on the canvas: against naive area averaging, for every encoding, and what is refused."""

from __future__ import annotations

import array
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from starry_ros.canvas.layout import CanvasLayout, Tile, t_pose_layout
from starry_ros.canvas.pack import CanvasPacker, decode_compressed, decode_image
from starry_ros.errors import InputError
from starry_ros.robot_spec import load_robot_spec
from starry_ros.types import F64, U8, CameraFrame, FrameSet

SPEC = load_robot_spec(Path(__file__).parents[1] / "config" / "robots" / "bimanual_sim.yaml")


def layout_for(width: int, height: int, canvas_hw: tuple[int, int] = (192, 160)) -> CanvasLayout:
    spec = SPEC
    cameras = tuple(dataclasses.replace(c, width_px=width, height_px=height) for c in spec.cameras)
    canvas = dataclasses.replace(spec.canvas, height_px=canvas_hw[0], width_px=canvas_hw[1])
    return t_pose_layout(dataclasses.replace(spec, cameras=cameras, canvas=canvas))


def coded(width: int, height: int, seed: int = 0) -> U8:
    """Red follows u, green follows v, blue is noise."""
    u, v = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(seed).integers(0, 256, (height, width))
    return np.stack([u, v, noise], axis=-1).astype(np.uint8)


def views(layout: CanvasLayout) -> dict[str, U8]:
    return {t.camera: coded(t.camera_width_px, t.camera_height_px, i) for i, t in enumerate(layout.tiles)}


def coverage(size: int, cells: int) -> F64:
    """[cells, size]: share of every input pixel in every output cell, by intersecting intervals one by one."""
    weight = np.zeros((cells, size))
    for cell in range(cells):
        low, high = cell * size / cells, (cell + 1) * size / cells
        for pixel in range(size):
            weight[cell, pixel] = max(0.0, min(high, pixel + 1) - max(low, pixel))
    return weight / weight.sum(axis=1, keepdims=True)


def naive_view(image_HWC: U8, tile: Tile) -> F64:
    rows = coverage(image_HWC.shape[0], tile.content.height_px)
    columns = coverage(image_HWC.shape[1], tile.content.width_px)
    return np.stack([rows @ plane @ columns.T for plane in image_HWC.transpose(2, 0, 1).astype(np.float64)], axis=-1)


@pytest.mark.parametrize(("width", "height"), [(320, 240), (640, 480), (641, 479), (480, 640), (1280, 720), (200, 171)])
def test_every_view_is_the_area_average_of_its_camera_within_half_a_level_a_step(width: int, height: int) -> None:
    layout = layout_for(width, height)
    images = views(layout)
    canvas = CanvasPacker(layout).pack_images(images)
    assert canvas.shape == (192, 160, 3)
    assert canvas.dtype == np.uint8
    for tile in layout.tiles:
        difference = canvas[tile.content.slices] - naive_view(images[tile.camera], tile)
        steps, factor = 1, width / tile.content.width_px
        while factor % 2 == 0 and factor > 2:
            steps, factor = steps + 1, factor / 2
        assert np.abs(difference).max() <= 0.5 * steps + 0.01


def test_a_camera_smaller_than_its_tile_is_enlarged_in_place() -> None:
    layout = layout_for(100, 80)
    canvas = CanvasPacker(layout).pack_images(views(layout))
    head = canvas[layout.tile("head").content.slices].astype(int)
    assert (np.diff(head[..., 0], axis=1) >= 0).all()
    assert (np.diff(head[..., 1], axis=0) >= 0).all()


def test_everything_outside_the_views_is_the_fill_colour() -> None:
    layout = layout_for(641, 479)
    for fill in ((0, 0, 0), (9, 80, 200)):
        canvas = CanvasPacker(layout, fill).pack_images(views(layout))
        bars = np.ones(canvas.shape[:2], bool)
        for tile in layout.tiles:
            bars[tile.content.slices] = False
        assert bars.any()
        assert (canvas[bars] == fill).all()


def test_rgb_bgr_and_alpha_encodings_give_the_same_canvas_and_grey_its_own() -> None:
    for size in ((320, 240), (641, 479)):
        layout = layout_for(*size)
        packer, images = CanvasPacker(layout), views(layout)
        plain = packer.pack_images(images)
        alpha = {c: np.dstack([image, image[..., :1]]) for c, image in images.items()}
        wire = {
            "rgb8": images, "bgr8": {c: i[..., ::-1] for c, i in images.items()},
            "rgba8": alpha, "bgra8": {c: a[..., [2, 1, 0, 3]] for c, a in alpha.items()},
        }
        for encoding, source in wire.items():
            decoded = {
                c: decode_image(c, encoding, i.shape[0], i.shape[1], i.shape[1] * i.shape[2], i.tobytes())
                for c, i in source.items()
            }
            for camera in images:
                np.testing.assert_array_equal(decoded[camera], images[camera])
            np.testing.assert_array_equal(packer.pack_images(decoded), plain)
        grey = {c: decode_image(c, "mono8", *i.shape[:2], i.shape[1], i[..., 2].tobytes()) for c, i in images.items()}
        same = packer.pack_images({c: np.repeat(i[..., 2:], 3, axis=2) for c, i in images.items()})
        np.testing.assert_array_equal(packer.pack_images(grey), same)


@pytest.mark.parametrize(("encoding", "channels"), [("rgb8", 3), ("bgr8", 3), ("mono8", 1), ("bgra8", 4)])
def test_padded_rows_are_skipped(encoding: str, channels: int) -> None:
    image = np.random.default_rng(4).integers(0, 256, (7, 5, channels), dtype=np.uint8)
    padded = np.full((7, 5 * channels + 11), 255, np.uint8)
    padded[:, : 5 * channels] = image.reshape(7, -1)
    tight = decode_image("head", encoding, 7, 5, 5 * channels, image.tobytes())
    np.testing.assert_array_equal(decode_image("head", encoding, 7, 5, padded.shape[1], padded.tobytes()), tight)


def test_decoding_copies_nothing_and_takes_every_buffer() -> None:
    image = coded(6, 4)
    flat = image.reshape(-1)
    for encoding in ("rgb8", "bgr8"):
        assert np.shares_memory(decode_image("head", encoding, 4, 6, 18, flat), flat)
    assert np.shares_memory(decode_image("head", "mono8", 4, 18, 18, flat), flat)
    raw = flat.tobytes()
    for data in (raw, bytearray(raw), memoryview(raw), array.array("B", raw)):
        np.testing.assert_array_equal(decode_image("head", "rgb8", 4, 6, 18, data), image)


def test_bad_raw_images_are_refused_with_a_reason() -> None:
    data = bytes(4 * 18)
    with pytest.raises(InputError, match=r"head: unknown image encoding; got '16UC1'.*'bgr8', .*'mono8', 'rgb8'"):
        decode_image("head", "16UC1", 4, 6, 18, data)
    with pytest.raises(InputError, match="wrong length; got 71 bytes; expected 72"):
        decode_image("head", "rgb8", 4, 6, 18, data[:-1])
    with pytest.raises(InputError, match="wrong length"):
        decode_image("head", "rgb8", 4, 6, 18, data + b"x")
    with pytest.raises(InputError, match="step is shorter than a row; got 17"):
        decode_image("head", "rgb8", 4, 6, 17, data)
    with pytest.raises(InputError, match="image is empty"):
        decode_image("head", "rgb8", 0, 6, 18, b"")


def test_compressed_images_decode_to_rgb_and_keep_their_orientation() -> None:
    image = np.dstack([coded(64, 48)[..., :2], np.full((48, 64), 77, np.uint8)])
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_compressed("head", png), image)
    jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    assert np.abs(decode_compressed("head", jpeg).astype(int) - image).mean() < 3
    grey = cv2.imencode(".png", image[..., 0])[1].tobytes()
    np.testing.assert_array_equal(decode_compressed("head", grey)[..., 2], image[..., 0])


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_corrupt_compressed_images_are_refused(suffix: str) -> None:
    good = cv2.imencode(suffix, coded(64, 48))[1].tobytes()
    for bad in (b"", b"not an image", good[: len(good) // 2], good[:-20], good[:30], good[8:]):
        with pytest.raises(InputError, match="camera head: compressed image"):
            decode_compressed("head", bad)
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_compressed("head", good[:8] + bytes(len(good) - 28) + good[-20:])


def test_a_picture_that_promises_gigabytes_is_refused() -> None:
    whole = cv2.imencode(".jpg", coded(64, 48))[1].tobytes()
    frame = whole.index(b"\xff\xc0")  # marker, length, bits, then height and width
    with pytest.raises(InputError, match="cannot be decoded"):
        decode_compressed("head", whole[: frame + 5] + b"\xff\xf0\xff\xf0" + whole[frame + 9 :])


def test_a_missing_camera_leaves_the_fill_colour_and_is_marked_invalid() -> None:
    layout = layout_for(320, 240)
    packer, images = CanvasPacker(layout, (1, 2, 3)), views(layout)
    packer.pack_images(images)
    frames = {c: CameraFrame(c, 100 + i, 150, images[c]) for i, c in enumerate(("right_wrist", "head"))}
    canvas = packer.pack(FrameSet(100, 1, frames), now_ns=180)
    assert (canvas.image_HWC[layout.tile("left_wrist").rect.slices] == (1, 2, 3)).all()
    assert not canvas.complete
    assert canvas.stamp_ns == 100
    assert canvas.layout_hash == layout.layout_hash
    status = {tile.camera: tile for tile in canvas.tiles}
    assert [tile.camera for tile in canvas.tiles] == list(layout.cameras)
    assert (status["head"].valid, status["head"].stamp_ns, status["head"].age_ns) == (True, 101, 79)
    assert (status["left_wrist"].valid, status["right_wrist"].age_ns) == (False, 80)
    whole = packer.pack(FrameSet(1, 0, {c: CameraFrame(c, 1, 1, i) for c, i in images.items()}), now_ns=2)
    assert whole.complete
    np.testing.assert_array_equal(whole.image_HWC, packer.pack_images(images))


def test_a_returned_canvas_is_never_written_again() -> None:
    layout = layout_for(320, 240)
    packer, images = CanvasPacker(layout), views(layout)
    canvases = [packer.pack_images({c: np.roll(i, 7 * turn, axis=1) for c, i in images.items()}) for turn in range(6)]
    fresh = CanvasPacker(layout)
    for turn, canvas in enumerate(canvases):
        expected = fresh.pack_images({c: np.roll(i, 7 * turn, axis=1) for c, i in images.items()})
        np.testing.assert_array_equal(canvas, expected)
    frozen = packer.pack(FrameSet(0, 0, {}), 0).image_HWC
    with pytest.raises(ValueError, match="read-only"):
        frozen[0, 0, 0] = 1


def test_wrong_sizes_types_and_unknown_cameras_are_refused() -> None:
    layout = layout_for(320, 240)
    packer, images = CanvasPacker(layout), views(layout)
    head = images["head"]
    for bad in (head[:-1], head.astype(np.float32), head[..., 0], head[..., :2]):
        with pytest.raises(InputError, match=r"head: image has the wrong size or.*expected uint8 \(240, 320, 3\)"):
            packer.pack_images({"head": bad})
    with pytest.raises(InputError, match=r"unknown cameras \['rear'\]"):
        packer.pack_images(images | {"rear": images["head"]})


def test_views_with_unusual_memory_order_are_packed_right() -> None:
    layout = layout_for(320, 240)
    packer, images = CanvasPacker(layout), views(layout)
    plain = packer.pack_images(images)
    flipped, spread = lambda i: np.ascontiguousarray(i[::-1])[::-1], lambda i: np.repeat(i, 2, axis=1)[:, ::2]
    for change in (np.asfortranarray, flipped, spread):
        np.testing.assert_array_equal(packer.pack_images({c: change(i) for c, i in images.items()}), plain)


@pytest.mark.parametrize("size", [(640, 480), (641, 479), (480, 640), (1280, 720)])
def test_a_painted_blob_is_found_where_the_inverse_says(size: tuple[int, int]) -> None:
    layout = layout_for(*size)
    packer, rng = CanvasPacker(layout), np.random.default_rng(8)
    v, u = np.mgrid[: size[1], : size[0]]
    for _ in range(5):
        centres = {c: rng.uniform(60, np.array(size) - 60) for c in layout.cameras}
        blobs = {c: 255 * np.exp(-((u - p[0]) ** 2 + (v - p[1]) ** 2) / (2 * 16.0**2)) for c, p in centres.items()}
        canvas = packer.pack_images({c: np.repeat(b[..., None], 3, axis=2).astype(np.uint8) for c, b in blobs.items()})
        for tile in layout.tiles:
            rows, columns = tile.rect.slices
            weight = canvas[rows, columns, 0].astype(float)
            grid_v, grid_u = np.mgrid[rows, columns]
            found = np.array([(grid_u * weight).sum(), (grid_v * weight).sum()]) / weight.sum()
            error = layout.canvas_to_camera(tile.camera, found) - centres[tile.camera]
            assert np.hypot(*error) < 0.5
