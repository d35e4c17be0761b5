"""Pictures for people: shaded mesh overlays with a side view, and joint skeletons.

Images are uint8 RGB arrays (H, W, 3); pixel coordinates as in `rendering`.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .rendering import Fragments, interpolate_pixels, project_with_depth, rasterize, vertex_normals
from .scan_conversion import NEAR

Color: TypeAlias = Sequence[float]
Mesh: TypeAlias = tuple[Tensor | np.ndarray, Tensor | np.ndarray, Color | None]

# Skin-free pastel colours, distinct for common colour vision deficiencies: one a hand, repeated.
HAND_COLORS: tuple[Color, ...] = ((114, 170, 217), (240, 170, 98), (122, 196, 148), (206, 148, 196))
# Thumb, index, middle, ring, little: Okabe & Ito's palette without its grey and yellow.
FINGER_COLORS: tuple[Color, ...] = ((213, 94, 0), (230, 159, 0), (0, 158, 115), (86, 180, 233), (204, 121, 167))

# Light directions (towards the light, camera frame: y down, z away from the viewer) and strengths in linear light.
_LIGHTS = (((-0.60, -0.75, -0.45), 0.85), ((0.85, 0.05, -0.40), 0.24))
_AMBIENT, _RIM, _GLOSS = 0.16, 0.22, 0.12
# Share of the mesh in the blend; the rest lets the photo shine through.
_OPACITY = 0.88
_PANEL_COLOR = 244
_PANEL_GAP = 0.02  # m, most that is shown between two hands
# Sub-pixels rasterised at once (about 100 bytes each in flight) and the area up to which 2 x 2 samples are taken.
_STRIP_PIXELS = 1 << 19
_SUPERSAMPLED_PIXELS = 2_000_000


def overlay(
    image: np.ndarray, hands: Sequence[Mesh], intrinsics: Tensor | np.ndarray, side_view: bool = True
) -> np.ndarray:
    """Draw shaded meshes over a photo, and the same meshes from the side on a panel to its right.

    Only the hands' part of the picture is rasterised, in strips, with 2 x 2 samples a pixel (one above 2 megapixels),
    so memory does not grow with the photo. Pixels that no hand touches stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        hands: (vertices (V, 3) in the camera frame, metres; faces (F, 3); colour) of every hand. The colour is RGB in
            [0, 255], or None for the next of `HAND_COLORS`. Hands hide one another by depth. May be empty.
        intrinsics: (3, 3) of the image, px.
        side_view: add the panel: a view from the image's right, depth growing to the right, scaled to fit; hands far
            from each other are brought nearer, in their order.

    Returns:
        (H, W, 3) uint8, or (H, W + min(W, H), 3) with the side view. The input is not changed.

    Raises:
        ValueError: an image that is not uint8 RGB, or a mesh of a wrong shape.
    """
    _check_image(image)
    scene = _Scene(hands)
    drawn = scene.draw(np.array(image), project_with_depth(scene.vertices, _cpu(intrinsics)), scene.vertices)
    if not side_view:
        return drawn
    height, width = image.shape[:2]
    panel = np.full((height, min(width, height), 3), _PANEL_COLOR, dtype=np.uint8)
    # Seen from +x: forward is -x, down stays down, right is the photo's depth.
    turn = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    turned = _Scene(_gathered(hands)).turned(turn)
    panel = turned.draw(panel, _fit(turned.vertices, *panel.shape[:2]), None, opacity=1.0)
    return np.concatenate([drawn, panel], axis=1)


def _gathered(hands: Sequence[Mesh]) -> list[Mesh]:
    """Meshes moved together where nothing is between them in height or depth: of the distance between two hands of a
    photo, which a guessed focal length and mean-sized hands tell, a side view would show little else."""
    moved = [(_cpu(vertices).float().clone(), faces, color) for vertices, faces, color in hands]
    for axis in (1, 2):
        end = -torch.inf
        for vertices, _, _ in sorted(moved, key=lambda mesh: float(mesh[0][:, axis].min())):
            excess = float(vertices[:, axis].min() - end) - _PANEL_GAP
            if 0 < excess < torch.inf:
                vertices[:, axis] -= excess
            end = max(end, float(vertices[:, axis].max()))
    return moved


def draw_keypoints(
    image: np.ndarray, keypoints_2d: Tensor | np.ndarray, colors: Sequence[Color] = FINGER_COLORS
) -> np.ndarray:
    """Draw the 21-joint skeleton of one hand: a line a bone, a dot a joint, a colour a finger.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints_2d: (21, 2) px; joints that are not finite, and their bones, are left out.
        colors: RGB in [0, 255] of thumb, index, middle, ring and little finger.

    Returns:
        (H, W, 3) uint8. The input is not changed.

    Raises:
        ValueError: an image that is not uint8 RGB, not 21 points, or not five colours.
    """
    points = np.asarray(_cpu(keypoints_2d), dtype=np.float64)
    if points.shape != (21, 2):
        raise ValueError(f"keypoints_2d must have shape (21, 2), got {points.shape}")
    if len(colors) != 5:
        raise ValueError(f"colors must name five fingers, got {len(colors)}")
    _check_image(image)
    height, width = image.shape[:2]
    line = max(0.8, min(height, width) / 110)
    # A joint many pictures away is no use to the eye, and overflows the drawing library's coordinates.
    usable = np.isfinite(points).all(1) & (np.abs(np.nan_to_num(points)) < 20 * max(height, width)).all(1)
    box = _region(points[usable], 2 * line + 2, height, width)
    if box is None:
        return np.array(image)
    left, top, right, bottom = box
    scale = 4 if (right - left) * (bottom - top) < 1_000_000 else 1
    layer = Image.new("RGBA", ((right - left) * scale, (bottom - top) * scale))
    _draw_bones(ImageDraw.Draw(layer), (points - (left, top) + 0.5) * scale - 0.5, usable, colors, line * scale)
    layer = layer.resize((right - left, bottom - top), Image.Resampling.BOX)
    picture = Image.fromarray(image)
    picture.paste(layer, (left, top), layer)
    return np.array(picture)


def _draw_bones(
    draw: ImageDraw.ImageDraw, points: np.ndarray, usable: np.ndarray, colors: Sequence[Color], line: float
) -> None:
    def dot(joint: int, radius: float, fill: tuple[int, ...]) -> None:
        x, y = points[joint]
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)

    for finger, color in enumerate(colors):
        fill = (*(int(c) for c in color), 255)
        chain = [0, *range(4 * finger + 1, 4 * finger + 5)]
        for start, end in zip(chain[:-1], chain[1:], strict=True):
            if usable[start] and usable[end]:
                draw.line((*points[start], *points[end]), fill=fill, width=max(1, round(line)))
        for joint in chain[1:]:
            if usable[joint]:
                dot(joint, 1.1 * line, fill)
    if usable[0]:
        dot(0, 1.3 * line, (250, 250, 250, 255))


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 RGB of shape (H, W, 3), got {image.dtype} {image.shape}")


def _cpu(value: Tensor | np.ndarray) -> Tensor:
    return torch.as_tensor(value).detach().to("cpu", torch.float32)


def _region(points: np.ndarray, margin: float, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Box (left, top, right, bottom), ends excluded, of the pixels around the points; None if there are none."""
    if not len(points):
        return None
    low = np.clip(np.floor(points.min(0) - margin), 0, (width, height)).astype(int)
    high = np.clip(np.ceil(points.max(0) + margin) + 1, 0, (width, height)).astype(int)
    return (*low.tolist(), *high.tolist()) if (high > low).all() else None


def _fit(vertices: Tensor, height: int, width: int) -> Tensor:
    """Orthographic projection that fills 80 % of a panel. The eye is so far away that depth stays nearly linear."""
    if not len(vertices):
        return vertices
    low, high = vertices.amin(0), vertices.amax(0)
    extent = (high - low)[:2].clamp(min=1e-6)
    scale = 0.8 * float((torch.tensor([width, height]) / extent).min())
    center = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    position = (vertices[:, :2] - (low + high)[:2] / 2) * scale + center
    return torch.cat([position, vertices[:, 2:] - low[2] + 10 * float((high - low).max()) + 1], dim=1)


class _Scene:
    """All hands as one mesh, so that the z-buffer sorts them."""

    def __init__(self, hands: Sequence[Mesh]) -> None:
        vertices, faces, normals, colors, count = [], [], [], [], 0
        for i, (points, triangles, color) in enumerate(hands):
            points, triangles = _cpu(points), torch.as_tensor(triangles).cpu().long()
            if points.dim() != 2 or points.shape[1] != 3 or triangles.dim() != 2 or triangles.shape[1] != 3:
                raise ValueError(
                    "a hand must be vertices (V, 3) and faces (F, 3), "
                    f"got {tuple(points.shape)} and {tuple(triangles.shape)}"
                )
            color = HAND_COLORS[i % len(HAND_COLORS)] if color is None else color
            vertices.append(points)
            faces.append(triangles + count)
            normals.append(vertex_normals(points, triangles))
            colors.append((torch.tensor([float(c) for c in color]) / 255).pow(2.2).expand_as(points))
            count += len(points)
        self.vertices = torch.cat(vertices) if hands else torch.zeros(0, 3)
        self.faces = torch.cat(faces) if hands else torch.zeros(0, 3, dtype=torch.int64)
        self.normals = torch.cat(normals) if hands else torch.zeros(0, 3)
        self.colors = torch.cat(colors) if hands else torch.zeros(0, 3)

    def turned(self, rotation: Tensor) -> "_Scene":
        """The scene rotated (3, 3) about the camera centre."""
        scene = _Scene([])
        scene.vertices, scene.normals = self.vertices @ rotation.t(), self.normals @ rotation.t()
        scene.faces, scene.colors = self.faces, self.colors
        return scene

    def draw(self, image: np.ndarray, points: Tensor, eye_rays: Tensor | None, opacity: float = _OPACITY) -> np.ndarray:
        """Blend the scene into `image` (in place) and return it.

        Args:
            image: (H, W, 3) uint8.
            points: (V, 3) projected vertices: px, px, depth.
            eye_rays: (V, 3) vectors from the eye to the vertices; None for parallel rays along z.
            opacity: 1 hides the photo.
        """
        height, width = image.shape[:2]
        seen = points[torch.isfinite(points).all(1) & (points[:, 2] > NEAR)]
        box = _region(seen[:, :2].double().numpy(), 1, height, width)
        if box is None:
            return image
        left, top, right, bottom = box
        samples = 2 if (right - left) * (bottom - top) <= _SUPERSAMPLED_PIXELS else 1
        rows = max(1, _STRIP_PIXELS // ((right - left) * samples**2))
        attributes = torch.cat([self.normals, self.colors] + ([] if eye_rays is None else [eye_rays]), dim=1)
        corner = points[self.faces, :2]
        edge, other = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
        back = edge[:, 0] * other[:, 1] > edge[:, 1] * other[:, 0]  # the winding as seen: the mesh's inner side
        for first in range(top, bottom, rows):
            strip = image[first : min(first + rows, bottom), left:right]
            moved = (points[:, :2] - torch.tensor([left, first]) + 0.5) * samples - 0.5
            moved = torch.cat([moved, points[:, 2:]], dim=1)[None]
            fragments = rasterize(moved, self.faces, strip.shape[0] * samples, strip.shape[1] * samples, cull=False)
            shaded = _shade(interpolate_pixels(fragments, self.faces, attributes), back[fragments.pixel_face])
            _blend(strip, fragments, shaded, samples, opacity)
        return image


def _shade(attributes: Tensor, back: Tensor) -> Tensor:
    """Light the samples.

    Args:
        attributes: (P, 6 or 9): normal, linear colour, and, unless the rays are parallel, the vector from the eye.
        back: (P,) bool, samples that show the mesh's inner side (through the open wrist).

    Returns:
        (P, 3) linear RGB in [0, 1].
    """
    normal, color = F.normalize(attributes[:, :3], dim=1), attributes[:, 3:6]
    if attributes.shape[1] > 6:
        eye = -F.normalize(attributes[:, 6:], dim=1)
    else:
        eye = torch.tensor([0.0, 0.0, -1.0]).expand_as(normal)
    side = 1 - 2 * back.float()[:, None]
    normal = normal * side
    light = _AMBIENT * (0.75 - 0.25 * normal[:, 1:2])  # a little more from above
    gloss = torch.zeros_like(light)
    for direction, strength in _LIGHTS:
        towards = F.normalize(torch.tensor(direction), dim=0)
        # Wrapped Lambert: light reaches a little around the terminator, as in skin.
        light = light + strength * ((normal @ towards[:, None] + 0.25) / 1.25).clamp(min=0)
        half = F.normalize(towards + eye, dim=1)
        gloss = gloss + strength * (normal * half).sum(1, keepdim=True).clamp(min=0).pow(32)
    # Interpolated normals may turn away just before the outline does: no light from there, but no hole either.
    facing = (normal * eye).sum(1, keepdim=True).clamp(min=0)
    rim = _RIM * (1 - facing).pow(3)
    shaded = color * light * (0.75 + 0.25 * side) + _GLOSS * gloss + rim * (0.5 + 0.5 * color)
    return shaded.clamp(0, 1)


def _blend(strip: np.ndarray, fragments: Fragments, linear: Tensor, samples: int, opacity: float) -> None:
    """Average the samples of each pixel and blend them into the strip, in place."""
    _, tall, wide = fragments.size
    premultiplied = torch.cat([linear.pow(1 / 2.2) * 255, torch.ones_like(linear[:, :1])], dim=1)
    picture = fragments.scatter(premultiplied).view(tall // samples, samples, wide // samples, samples, 4)
    picture = (picture.sum((1, 3)) * (opacity / samples**2)).numpy()
    alpha = picture[..., 3]
    touched = alpha > 0
    mixed = strip[touched] * (1 - alpha[touched][:, None]) + picture[touched][:, :3]
    strip[touched] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
