"""A small reader of skinned, animated .glb files, written from the glTF 2.0 specification alone: numpy, float64."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {5121: "u1", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
SIZES = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class GlbFile:
    """A file with one skinned mesh and at most one animation.

    Attributes:
        document: the JSON chunk. binary: the other one.
    """

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        magic, version, length, json_length, json_kind = struct.unpack_from("<4sIII4s", data)
        assert (magic, version, length, json_kind) == (b"glTF", 2, len(data), b"JSON")
        assert json_length % 4 == 0
        self.document: dict[str, Any] = json.loads(data[20 : 20 + json_length])
        binary_length, kind = struct.unpack_from("<I4s", data, 20 + json_length)
        assert kind == b"BIN\0" and binary_length % 4 == 0 and 28 + json_length + binary_length == len(data)
        self.binary = data[28 + json_length :]

    def view(self, index: int, dtype: str, count: int) -> np.ndarray:
        view = self.document["bufferViews"][index]
        assert view["byteLength"] == count * np.dtype(dtype).itemsize
        return np.frombuffer(self.binary, dtype, count, view["byteOffset"])

    def accessor(self, index: int) -> np.ndarray:
        """(count, components), sparse ones filled up."""
        about = self.document["accessors"][index]
        dtype, count, size = DTYPES[about["componentType"]], about["count"], SIZES[about["type"]]
        if "bufferView" in about:
            array = self.view(about["bufferView"], dtype, count * size).reshape(count, size)
        else:
            array = np.zeros((count, size), dtype)
        if "sparse" in about:
            sparse, array = about["sparse"], array.copy()
            kept, rows = sparse["count"], sparse["indices"]
            where = self.view(rows["bufferView"], DTYPES[rows["componentType"]], kept)
            assert (np.diff(where.astype(int)) > 0).all()
            array[where] = self.view(sparse["values"]["bufferView"], dtype, kept * size).reshape(kept, size)
        return array

    @property
    def primitive(self) -> dict[str, Any]:
        return self.document["meshes"][0]["primitives"][0]

    @property
    def faces(self) -> np.ndarray:
        return self.accessor(self.primitive["indices"]).reshape(-1, 3).astype(np.int64)

    def attribute(self, name: str) -> np.ndarray:
        return self.accessor(self.primitive["attributes"][name]).astype(np.float64)

    def targets(self) -> np.ndarray:
        """(K, V, 3)."""
        return np.stack([self.accessor(target["POSITION"]) for target in self.primitive["targets"]]).astype(np.float64)

    def state(self, time: float) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Nodes with their translation and rotation at this second, and the morph weights."""
        nodes = [dict(node) for node in self.document["nodes"]]
        weights = np.array(self.document["meshes"][0]["weights"])
        for animation in self.document.get("animations", []):
            for channel in animation["channels"]:
                target, sampler = channel["target"], animation["samplers"][channel["sampler"]]
                times, values = self.accessor(sampler["input"])[:, 0], self.accessor(sampler["output"])
                value = _sample(times, values.reshape(len(times), -1).astype(np.float64), time, target["path"])
                if target["path"] == "weights":
                    weights = value
                else:
                    nodes[target["node"]][target["path"]] = value
        return nodes, weights

    def globals(self, nodes: list[dict[str, Any]]) -> dict[int, np.ndarray]:
        """(4, 4) world transform of each node."""
        result: dict[int, np.ndarray] = {}

        def visit(index: int, parent: np.ndarray) -> None:
            node, local = nodes[index], np.eye(4)
            local[:3, :3] = _matrix(node.get("rotation", [0, 0, 0, 1]))
            local[:3, 3] = node.get("translation", [0, 0, 0])
            result[index] = parent @ local
            for child in node.get("children", []):
                visit(child, result[index])

        for root in self.document["scenes"][0]["nodes"]:
            visit(root, np.eye(4))
        return result

    def vertices(self, time: float = 0.0, weights: Any = None) -> np.ndarray:
        """(V, 3) of the posed mesh, world; `weights` (K,) instead of the file's morph weights."""
        nodes, own = self.state(time)
        shaped = self.attribute("POSITION") + np.tensordot(own if weights is None else weights, self.targets(), 1)
        skin = self.document["skins"][0]
        inverse = self.accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)  # columns first
        world = self.globals(nodes)
        transforms = np.stack([world[joint] for joint in skin["joints"]]) @ inverse
        blended = np.einsum(
            "vk,vkrc->vrc", self.attribute("WEIGHTS_0"), transforms[self.attribute("JOINTS_0").astype(int)]
        )
        return np.einsum("vrc,vc->vr", blended[:, :3], np.c_[shaped, np.ones(len(shaped))])

    def joints(self, time: float = 0.0) -> dict[str, np.ndarray]:
        """World position of each joint by name."""
        nodes, _ = self.state(time)
        world = self.globals(nodes)
        return {nodes[j]["name"]: world[j][:3, 3] for j in self.document["skins"][0]["joints"]}


def _sample(times: np.ndarray, values: np.ndarray, time: float, path: str) -> np.ndarray:
    """Appendix C of the specification; but rotations go the way their signs say, so that a wrong sign shows."""
    right = int(np.searchsorted(times, time))
    if right == 0 or right == len(times):
        return values[min(right, len(times) - 1)]
    part = (time - times[right - 1]) / (times[right] - times[right - 1])
    a, b = values[right - 1], values[right]
    if path != "rotation":
        return (1 - part) * a + part * b
    angle = np.arccos(np.clip(a @ b, -1, 1))
    if angle < 1e-6:
        return a
    return (np.sin((1 - part) * angle) * a + np.sin(part * angle) * b) / np.sin(angle)


def _matrix(quaternion: Any) -> np.ndarray:
    x, y, z, w = np.asarray(quaternion, np.float64)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
