"""A binary glTF file (`.glb`) out of a JSON document and arrays: glTF 2.0, sections 3.6 (buffers) and 4 (GLB)."""

import json
from typing import Any

import numpy as np

# Offsets of morph targets below this, metres, are not written where leaving them out saves space.
NEGLIGIBLE = 1e-6
# A light skin, linear RGB as glTF wants it. Without a material glTF takes polished metal, which is black where there is
# nothing around to be seen in it.
SKIN = {
    "name": "skin",
    "pbrMetallicRoughness": {"baseColorFactor": [0.76, 0.42, 0.28, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.6},
    "doubleSided": False,
}


class GlbBuffer:
    """Binary chunk, buffer views and accessors: sections 3.6.1 and 3.6.2."""

    TYPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
    COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
    VERTICES, INDICES = 34962, 34963

    def __init__(self) -> None:
        self.data, self.views, self.accessors = bytearray(), [], []

    def view(self, array: np.ndarray, target: int | None = None) -> int:
        """Index of a new view of these bytes, at a multiple of four."""
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes})
        if target is not None:
            self.views[-1]["target"] = target
        self.data += array.astype(array.dtype.newbyteorder("<")).tobytes() + bytes(-array.nbytes % 4)
        return len(self.views) - 1

    def add(self, array: Any, dtype: str = "float32", target: int | None = None, bounds: bool = False) -> int:
        """Index of a new accessor; a matrix (4, 4) is given as its columns, one after the other."""
        array = np.ascontiguousarray(array, dtype)
        accessor = {"bufferView": self.view(array, target), "componentType": self.COMPONENTS[dtype]}
        accessor |= {"count": len(array), "type": self.TYPES[array.shape[1:]]}
        self.accessors.append(accessor | (_bounds(array) if bounds else {}))
        return len(self.accessors) - 1

    def add_offsets(self, array: Any) -> int:
        """Accessor of a morph target (V, 3); only the rows that are not zero, where that is smaller."""
        array = np.ascontiguousarray(array, np.float32)
        rows = np.flatnonzero(np.abs(array).max(1) > NEGLIGIBLE)
        index = "uint16" if len(array) <= 2**16 else "uint32"
        if len(rows) * (12 + np.dtype(index).itemsize) >= array.nbytes or not len(rows):
            return self.add(array, target=self.VERTICES, bounds=True)
        kept = np.zeros_like(array)
        kept[rows] = array[rows]
        indices = {"bufferView": self.view(rows.astype(index)), "componentType": self.COMPONENTS[index]}
        sparse = {"count": len(rows), "indices": indices, "values": {"bufferView": self.view(array[rows])}}
        accessor = {"componentType": 5126, "count": len(array), "type": "VEC3", "sparse": sparse} | _bounds(kept)
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def surface(buffer: GlbBuffer, vertices: Any, faces: Any, normals: Any) -> dict[str, Any]:
    """A primitive, section 3.7.2.1: a mesh of skin, smooth by its normals; the document has `SKIN` as material 0.

    Args:
        buffer: Takes the arrays.
        vertices: (V, 3) metres, glTF's frame. faces: (F, 3). normals: (V, 3) unit.
    """
    attributes = {
        "POSITION": buffer.add(vertices, target=buffer.VERTICES, bounds=True),
        "NORMAL": buffer.add(normals, target=buffer.VERTICES),
    }
    index = "uint16" if len(vertices) < 2**16 else "uint32"
    return {
        "attributes": attributes,
        "indices": buffer.add(np.asarray(faces).reshape(-1), index, buffer.INDICES),
        "material": 0,
    }


def mesh_glb(vertices: Any, faces: Any, normals: Any) -> bytes:
    """The file of one mesh; arguments as of `surface`."""
    buffer = GlbBuffer()
    document = {
        "asset": {"version": "2.0", "generator": "handmim"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": "hand", "mesh": 0}],
        "meshes": [{"name": "hand", "primitives": [surface(buffer, vertices, faces, normals)]}],
        "materials": [SKIN],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    return glb_bytes(document, bytes(buffer.data))


def _bounds(array: np.ndarray) -> dict[str, list]:
    return {name: np.atleast_1d(limit(array, axis=0)).tolist() for name, limit in (("min", np.min), ("max", np.max))}


def glb_bytes(document: dict[str, Any], binary: bytes) -> bytes:
    """The file, section 4: header, JSON chunk padded with spaces, binary chunk (its views are aligned already)."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    words = np.array([0x46546C67, 2, 28 + len(text) + len(binary), len(text), 0x4E4F534A], "<u4").tobytes()
    return words + text + np.array([len(binary), 0x004E4942], "<u4").tobytes() + binary
