"""Two views an image: images a second and core of each path beside torchvision's pipelines, in one run.

    python tests/benchmarks/views.py [--count 64] [--rounds 3] [--device cuda] [--photos FOLDER]

torchvision v1 (PIL pictures) and v2 (uint8 tensors) do what iBOT does: resized crop (bicubic), flip, colour jitter,
grayscale, blur, solarisation, to a normalised tensor; no rotation. handmim's worker path does its one warp with the
rotation. Two sources: 224 px pictures in memory, and 640 x 480 JPEG files with the time to decode them (drawn hands
enlarged, or `--photos`). Times are processor time on one thread, the best of several rounds; on CUDA the wall time of
batches that lie on the CPU, with the copy.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as v1
from torchvision.transforms import v2

from handmim.synthesis import generate
from handmim.training.datasets.images import FolderImages
from handmim.training.view_rendering import has_opencv, render_on_cpu, render_on_device
from handmim.training.views import ViewAugmentation, draw_views

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pipeline = Callable[[list], object]


def blur_pillow(picture: Image.Image) -> Image.Image:
    """Radius uniform in [0.1, 2]."""
    return picture.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2))))


def torchvision_v1() -> Pipeline:
    """iBOT's two global views by transforms of PIL pictures."""
    jitter = v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8)
    crop = v1.RandomResizedCrop(SIZE, (0.08, 1.0), interpolation=v1.InterpolationMode.BICUBIC)
    start = [crop, v1.RandomHorizontalFlip(), jitter, v1.RandomGrayscale(0.2)]
    end = [v1.ToTensor(), v1.Normalize(MEAN, STD)]
    first = v1.Compose([*start, v1.Lambda(blur_pillow), *end])
    rare = [v1.RandomApply([v1.Lambda(blur_pillow)], 0.1), v1.RandomApply([v1.Lambda(ImageOps.solarize)], 0.2)]
    second = v1.Compose([*start, *rare, *end])
    return lambda images: [view(image) for image in map(Image.fromarray, images) for view in (first, second)]


def torchvision_v2() -> Pipeline:
    """The same by v2's transforms of uint8 tensors."""
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8)
    crop = v2.RandomResizedCrop(SIZE, (0.08, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    start = [crop, v2.RandomHorizontalFlip(), jitter, v2.RandomGrayscale(0.2)]
    blur = v2.GaussianBlur(13, (0.1, 2.0))
    end = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    first = v2.Compose([*start, blur, *end])
    second = v2.Compose([*start, v2.RandomApply([blur], 0.1), v2.RandomSolarize(128, 0.2), *end])

    def run(images: list[np.ndarray]) -> object:
        tensors = (torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in images)
        return [view(tensor) for tensor in tensors for view in (first, second)]

    return run


def sizes_of(images: list[np.ndarray]) -> torch.Tensor:
    """(B, 2) width and height."""
    return torch.tensor([(image.shape[1], image.shape[0]) for image in images])


def worker_path(images: list[np.ndarray]) -> object:
    """Draws and pixels, as `ViewPairs` makes them."""
    draws = draw_views(ViewAugmentation(size=SIZE), 0, 0, torch.arange(len(images)), sizes_of(images))
    return render_on_cpu(images, draws, SIZE)


def device_path(device: str) -> Pipeline:
    """Draws on the CPU, copy and pixels on the device."""

    def run(images: list[np.ndarray]) -> object:
        draws = draw_views(ViewAugmentation(size=SIZE), 0, 0, torch.arange(len(images)), sizes_of(images))
        return render_on_device(torch.from_numpy(np.stack(images)).to(device), draws, SIZE)

    return run


def seconds(job: Callable[[], object], rounds: int, cuda: bool = False) -> float:
    """Best of several rounds, after one that warms up: processor time, or wall time where a GPU works."""
    clock = time.perf_counter if cuda else time.process_time
    taken = []
    for _ in range(rounds + 1):
        start = clock()
        job()
        if cuda:
            torch.cuda.synchronize()
        taken.append(clock() - start)
    return min(taken[1:])


def save_photos(folder: Path, pictures: np.ndarray) -> None:
    """640 x 480 JPEGs."""
    for number, picture in enumerate(pictures):
        photo = Image.fromarray(picture).resize((640, 640), Image.Resampling.BICUBIC).crop((0, 80, 640, 560))
        photo.save(folder / f"{number:04}.jpg", quality=90)


def decode(path: Path) -> np.ndarray:
    """As torchvision's data sets do."""
    with Image.open(io.BytesIO(path.read_bytes())) as picture:
        return np.array(picture.convert("RGB"))


def report(title: str, rates: dict[str, float]) -> None:
    """A table; ratios against the first row."""
    print(title)
    base = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"  {name:44s} {rate:8.0f} images/s {2 * rate:9.0f} views/s {rate / base:7.1f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=1024, help="images at a time on CUDA")
    parser.add_argument("--photos", type=Path, help="folder of JPEGs to decode")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if has_opencv():
        import cv2

        cv2.setNumThreads(1)
        print(f"OpenCV {cv2.__version__}")
    count, rounds = arguments.count, arguments.rounds
    pictures = generate(0, range(count), size=SIZE).images.numpy()
    images = list(pictures)
    rivals = {"torchvision v1 (iBOT's)": torchvision_v1(), "torchvision v2, uint8 tensors": torchvision_v2()}
    ours = {
        f"handmim, worker path ({'OpenCV' if has_opencv() else 'torch'})": worker_path,
        "handmim, device path on the CPU": device_path("cpu"),
    }
    rates = {}
    for name, job in (rivals | ours).items():
        rates[name] = count / seconds(lambda job=job: job(images), rounds)
    if arguments.device != "cpu":
        batch = [images[k % count] for k in range(arguments.batch)]
        job = device_path(arguments.device)
        rates[f"handmim, device path on {arguments.device}"] = len(batch) / seconds(lambda: job(batch), rounds, True)
    report(f"{SIZE} px sources in memory, two views each", rates)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.photos or Path(scratch)
        if arguments.photos is None:
            save_photos(folder, pictures)
        paths = sorted(folder.glob("*.jpg"))[:count]
        full, limited = FolderImages(folder, size=None), FolderImages(folder)
        rates = {}
        for name, job in rivals.items():
            rates[name] = len(paths) / seconds(lambda job=job: job([decode(path) for path in paths]), rounds)
        for name, collection in (("worker path, photos as they are", full), ("worker path, size=256", limited)):
            read = range(len(paths))
            rates[f"handmim, {name}"] = len(paths) / seconds(
                lambda collection=collection, read=read: worker_path(collection.read_many(read)), rounds
            )
        report("JPEG files, 640 x 480 px unless --photos, decoded, two views each", rates)


if __name__ == "__main__":
    main()
