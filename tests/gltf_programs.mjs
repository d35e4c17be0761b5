// What other programs make of a .glb: node gltf_programs.mjs NODE_MODULES validate FILE.glb
//                                     node gltf_programs.mjs NODE_MODULES three FILE.glb TIME...
// validate prints the report of the Khronos glTF validator; three prints for each time the vertices (V x 3, world)
// of the hand as three.js poses it, without a GPU. NODE_MODULES holds the npm packages gltf-validator and three.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, task, file, ...times] = process.argv.slice(2);
const bytes = readFileSync(file);
const data = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);

async function validate() {
  const validator = createRequire(import.meta.url)(path.resolve(modules, "gltf-validator"));
  return validator.validateBytes(new Uint8Array(data));
}

async function three() {
  globalThis.self = globalThis; // GLTFLoader looks for the browser's global object
  const folder = path.resolve(modules, "three");
  const THREE = await import(pathToFileURL(path.join(folder, "build/three.module.js")));
  const { GLTFLoader } = await import(pathToFileURL(path.join(folder, "examples/jsm/loaders/GLTFLoader.js")));
  const gltf = await new GLTFLoader().parseAsync(data, "");
  let mesh;
  gltf.scene.traverse((node) => { mesh = node.isSkinnedMesh ? node : mesh; });
  const mixer = new THREE.AnimationMixer(gltf.scene);
  for (const clip of gltf.animations) {
    const action = mixer.clipAction(clip);
    action.setLoop(THREE.LoopOnce);
    action.clampWhenFinished = true;
    action.play();
  }
  const vertex = new THREE.Vector3();
  return times.map((time) => {
    mixer.setTime(Number(time));
    gltf.scene.updateMatrixWorld(true);
    mesh.skeleton.update();
    const vertices = [];
    for (let i = 0; i < mesh.geometry.attributes.position.count; i++) {
      mesh.getVertexPosition(i, vertex).applyMatrix4(mesh.matrixWorld); // morph targets, then bones
      vertices.push(vertex.toArray());
    }
    return vertices;
  });
}

console.log(JSON.stringify(await { validate, three }[task]()));
