"""Whatever a user throws at it: a typed exception from Python, one sentence and no files from the command line."""

import base64
import errno
import io
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stub_network import picture, stub_model

from handmim import HandMIM, HandMIMError, ImageError, InputError
from handmim.cli import main
from handmim.images import MAX_PIXELS, download, exif_focal, list_images, load_image

PHOTO = picture()


@pytest.fixture(scope="module")
def model() -> HandMIM:
    return stub_model()


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


BAD_FILES: dict[str, Callable[[], bytes]] = {
    "empty.jpg": lambda: b"",
    "truncated.jpg": lambda: encoded("JPEG", quality=95)[:1500],
    "header_only.png": lambda: encoded("PNG")[:40],
    "text.jpg": lambda: b"this is no picture\n" * 20,
    "bomb.png": lambda: bomb(10_000, 10_000),
    "huge_bomb.png": lambda: bomb(20_000, 20_000),
    "one_pixel.png": lambda: bomb(1, 1),
    "line.png": lambda: bomb(200, 2),
    "program.jpg": lambda: encoded("EPS"),  # Pillow would ask Ghostscript to run it
    "icon.jpg": lambda: encoded("ICO"),  # which Pillow decodes before its size can be looked at
}


def bomb(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    for name, make in BAD_FILES.items():
        (folder / name).write_bytes(make())
    (folder / "no_images").mkdir()
    return folder


@pytest.mark.parametrize("name", [*BAD_FILES, "missing.jpg", "no_images"])
def test_bad_files(
    name: str, bad_files: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = bad_files / name
    with pytest.raises(ImageError, match=name.replace(".", r"\.")) as caught:
        load_image(path)
    assert "\n" not in str(caught.value)
    if path.is_file():
        with pytest.raises(ImageError):
            load_image(path.read_bytes())
    out = tmp_path / "out"
    assert main(["predict", str(path), "--model", str(tiny_checkpoint), "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("handmim: error: ") and name in captured.err
    assert not out.exists() and not captured.out


def test_truncation_is_told_for_pil_pictures(model: HandMIM) -> None:
    with pytest.raises(ImageError, match="truncated"):
        model(Image.open(io.BytesIO(BAD_FILES["truncated.jpg"]())))


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ([10, 10, 10, 40], "x0 < x1"),
        ([40, 40, 10, 10], "x0 < x1"),
        ([0, 0, 0.5, 0.5], "one pixel"),
        ([500, 500, 600, 600], "outside the image of 120 x 90"),
        ([-50, 10, -10, 40], "outside"),
        ([0, 0, float("nan"), 5], "finite"),
        ([0, 0, float("inf"), 5], "finite"),
        ([0, 0, 1e10, 5], "at most 100 times"),
    ],
)
def test_bad_boxes(
    box: list[float], word: str, model: HandMIM, photo: Path, checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(InputError, match=word):
        model(PHOTO, boxes=box)
    out = photo.parent / "out"
    option = "--box=" + ",".join(map(str, box))
    assert main(["predict", str(photo), option, "--model", str(checkpoint), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert word in error and "photo.png" in error and "Traceback" not in error and not out.exists()


@pytest.mark.parametrize("boxes", [[1, 2, 3], "here", [["a", 2, 3, 4]], [[[1, 2, 3, 4]]], [[1, 2, 3, 4], [1, 2]]])
def test_things_that_are_no_boxes(boxes: Any, model: HandMIM) -> None:
    with pytest.raises(InputError, match="boxes"):
        model(PHOTO, boxes=boxes)


@pytest.mark.parametrize("hand", ["middle", "Left", ["left", "right"], [3]])
def test_bad_handedness(hand: Any, model: HandMIM) -> None:
    with pytest.raises(InputError, match="handedness"):
        model(PHOTO, boxes=[5, 5, 50, 50], handedness=hand)


def camera(**changes: float) -> np.ndarray:
    values = {"fx": 100.0, "fy": 100.0, "skew": 0.0, "last": 1.0} | changes
    return np.array([[values["fx"], values["skew"], 60], [0, values["fy"], 45], [0, 0, values["last"]]])


@pytest.mark.parametrize(
    "matrix",
    [camera(fx=float("nan")), camera(fx=float("inf")), camera(fx=0), camera(fy=-5), camera(skew=3), camera(last=2),
     np.eye(4), [1, 2, 3], "wide"],
)  # fmt: skip
def test_bad_intrinsics(matrix: Any, model: HandMIM) -> None:
    with pytest.raises(InputError, match="intrinsics"):
        model(PHOTO, boxes=[5, 5, 50, 50], intrinsics=matrix)


@pytest.mark.parametrize("image", [None, 3, PHOTO.astype(np.float32), np.zeros((9, 9, 2), np.uint8), {"a": 1}.keys()])
def test_things_that_are_no_images(image: Any, model: HandMIM) -> None:
    with pytest.raises(ImageError, match="image"):
        model(image)


def pixels_of(data: bytes) -> np.ndarray:
    return load_image(data).pixels.astype(int)


def test_kinds_of_pictures_that_work() -> None:
    plain = PHOTO.astype(int)
    grey = np.repeat(np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None], 3, -1).astype(int)
    deep = io.BytesIO()
    Image.fromarray(grey[..., 0].astype(np.uint16) * 257).save(deep, "PNG")
    assert np.abs(pixels_of(deep.getvalue()) - grey).max() <= 1  # 16 bits
    assert np.abs(pixels_of(encoded("PNG", "L")) - grey).max() == 0
    assert np.abs(pixels_of(encoded("TIFF", "CMYK")) - plain).max() <= 2
    assert np.abs(pixels_of(encoded("JPEG", "CMYK", quality=98)) - plain).mean() < 6
    assert np.abs(pixels_of(encoded("GIF", "P")) - plain).mean() < 20
    assert np.abs(load_image(grey[..., :1].astype(np.uint8)).pixels - grey).max() == 0
    floats = io.BytesIO()
    Image.fromarray((grey[..., 0] / 255).astype(np.float32)).save(floats, "TIFF")
    assert np.abs(pixels_of(floats.getvalue()) - grey).max() <= 1


def test_transparency_is_laid_on_white() -> None:
    rgba = np.concatenate([np.zeros_like(PHOTO), np.zeros_like(PHOTO[..., :1])], -1)
    rgba[:, 60:, 3] = 255
    for source in (rgba, Image.fromarray(rgba)):
        pixels = load_image(source).pixels
        assert pixels[:, :60].min() == 255 and pixels[:, 60:].max() == 0
    palette = io.BytesIO()
    Image.fromarray(rgba).convert("P").save(palette, "GIF", transparency=0)
    assert load_image(palette.getvalue()).pixels[:, :60].min() == 255


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert (load_image(buffer.getvalue()).pixels == [255, 0, 0]).all()


def test_pictures_in_base64() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    assert len(text) > 4096 and load_image(text).size == load_image(f"data:image/png;base64,{text}").size == (50, 60)
    for wrong in (text[:-9], f"data:image/png;base64,{text[:400]}", "x" * 5000, "data:image/png;base64,???", "n" * 300):
        with pytest.raises(ImageError) as error:
            load_image(wrong)
        assert len(str(error.value)) < 400


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "PNG", exif=exif)
    np.testing.assert_array_equal(load_image(buffer.getvalue()).pixels, np.rot90(PHOTO, -1))


def focal(**tags: Any) -> float | None:
    exif = Image.Exif()
    names = {"mm": 0x920A, "mm35": 0xA405, "density": 0xA20E, "unit": 0xA210, "width": 0xA002, "height": 0xA003}
    exif[0x8769] = {names[name]: value for name, value in tags.items()}
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, "JPEG", exif=exif)
    return exif_focal(Image.open(buffer))


def test_focal_length_from_exif() -> None:
    assert focal() is None and focal(mm=5.0) is None and focal(mm35=0) is None
    assert focal(mm35=26) == pytest.approx(26 * 150 / 43.2666, rel=1e-4)
    assert focal(mm=50.0, density=120 / 36.0, unit=4, width=120, height=90) == pytest.approx(50 / 36 * 120)
    assert focal(mm=50.0, density=120 / 36.0, unit=4) is None  # of how wide a sensor, if it was shrunk?
    assert focal(mm=50.0, density=10 * 120 / 3.6, unit=3, width=1200, height=900) == pytest.approx(50 / 36 * 120)
    assert focal(mm35=26, width=1200, height=1200) is None  # cut after exposure
    assert focal(mm35=60_000) is None  # nonsense


@pytest.fixture(scope="module")
def server() -> Any:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/garbage":
                self.wfile.write(b"this is no protocol\r\n\r\n")
                return
            if self.path == "/cut":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"fff\r\n" + bytes(40))
                return
            status = 200 if self.path.startswith(("/photo", "/big")) else 302 if self.path == "/file" else 404
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
            if status == 200:
                self.wfile.write(encoded("PNG") if self.path.startswith("/photo") else bytes(4000))

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_addresses(server: str, model: HandMIM, monkeypatch: pytest.MonkeyPatch) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr(urllib.request, "urlopen", opener.open)
    (hand,) = model(f"{server}/photo.png", boxes=[5, 5, 50, 50], handedness="right")
    assert hand.overlay().height == 90
    with pytest.raises(ImageError, match="answered 404"):
        load_image(f"{server}/none.jpg")
    with pytest.raises(ImageError, match="larger than 0 MB"):
        download(f"{server}/big", max_bytes=1000)
    with pytest.raises(ImageError, match="not an image"):
        load_image(f"{server}/big")
    with pytest.raises(ImageError):
        load_image(f"{server}/file")
    broken = (f"{server}/cut", f"{server}/garbage", "http://127.0.0.1:9/a b.jpg", "http://[::1/ab.jpg")
    for address in ("http://127.0.0.1:9/photo.jpg", *broken):
        with pytest.raises(ImageError, match="could not be fetched"):
            load_image(address)


def test_size_limit() -> None:
    assert MAX_PIXELS == 64_000_000
    with pytest.raises(ImageError, match="megapixels, above the limit of 0.01"):
        load_image(PHOTO, max_pixels=10_000)


def test_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no image"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--model", "{tmp}/nowhere"], "no checkpoint could be loaded"),
        (["--model", "{tmp}/corrupt"], "damaged"),
        (["--device", "abacus", "--model", "{tiny}"], "abacus"),
        (["--detector", "psychic", "--model", "{tiny}"], "psychic"),
        (["--hand-model-path", "x", "--model", "{tiny}"], "open hand"),
    ],
)
def test_bad_models(
    options: list[str], word: str, photo: Path, checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    corrupt = photo.parent / "corrupt"
    corrupt.mkdir()
    (corrupt / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (corrupt / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      garbage")
    options = [option.format(tmp=photo.parent, tiny=checkpoint) for option in options]
    out = photo.parent / "out"
    assert main(["predict", str(photo), "--out", str(out), *options]) == 1
    error = capsys.readouterr().err
    assert word in error and "Traceback" not in error and not out.exists()


def test_missing_mano_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["mano", "install", str(tmp_path / "MANO_RIGHT.pkl")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "MANO_RIGHT.pkl" in error


def test_full_disk(
    photo: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    out = photo.parent / "out"
    arguments = ["predict", str(photo), "--box", "5,5,50,50", "--model", str(checkpoint), "--out", str(out)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left" in error
    assert not list(out.iterdir())


def test_folder_that_cannot_be_written(photo: Path, checkpoint: Path, capsys: pytest.CaptureFixture) -> None:
    out = photo.parent / "out"
    out.write_text("a file stands where the folder should be")
    arguments = ["predict", str(photo), "--box", "5,5,50,50", "--model", str(checkpoint), "--out", str(out)]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(out) in error


def test_errors_are_one_family() -> None:
    assert issubclass(ImageError, HandMIMError) and issubclass(ImageError, ValueError)
    assert issubclass(InputError, HandMIMError) and issubclass(InputError, ValueError)


def test_a_wrong_path_is_told_without_loading_torch(tmp_path: Path) -> None:
    code = """if True:
        import sys
        sys.argv[0] = "handmim"  # as the console script
        from handmim.cli import main
        print(main(["predict", "missing.jpg"]), *sys.modules)
    """
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split()[0] == "1" and "torch" not in result.stdout.split()
    assert result.stderr == "handmim: error: missing.jpg does not exist or is not a file; check the path\n"
