"""What Blender makes of a .glb: PYTHON blender_gltf.py FILE.glb OUT.npy TIME..., with a Python that has `bpy`.

Writes (times, V, 3): the vertices of the imported, animated mesh, turned back from Blender's z up to glTF's y up.
"""

import sys

import bpy
import numpy as np

file, out, *times = sys.argv[1:]
bpy.ops.wm.read_factory_settings(use_empty=True)
bpy.ops.import_scene.gltf(filepath=file)
scene = bpy.context.scene
(hand,) = (thing for thing in scene.objects if any(m.type == "ARMATURE" for m in thing.modifiers))
frames = []
for time in times:
    frame = float(time) * scene.render.fps / scene.render.fps_base
    scene.frame_set(int(frame), subframe=frame % 1)
    posed = hand.evaluated_get(bpy.context.evaluated_depsgraph_get())
    mesh = posed.to_mesh()
    vertices = np.empty(3 * len(mesh.vertices), np.float32)
    mesh.vertices.foreach_get("co", vertices)
    place = np.array(posed.matrix_world)
    world = vertices.reshape(-1, 3) @ place[:3, :3].T + place[:3, 3]
    frames.append(np.stack([world[:, 0], world[:, 2], -world[:, 1]], 1))
    posed.to_mesh_clear()
np.save(out, np.stack(frames))
