// The layers, each a file, and which of them are in force. A layer is open when its file was forgotten or is wrong.

import type { World } from '../../two-services/demo/world.ts';
import { type Guard, generationOf, putFile } from './world.ts';

export interface Layer {
  /** Its file, at the place where it is in force. */
  readonly file: string;
  /** The file that replaces it when it is open; absent: no file. */
  readonly open?: string;
  readonly guard: Guard;
}

export const layers = {
  door: { file: 'documents/front.yaml', open: 'open/front.yaml', guard: 'gateway' },
  users: { file: 'documents/users.yaml', open: 'open/users.yaml', guard: 'gateway' },
  limits: { file: 'documents/limits.yaml', guard: 'gateway' },
  api: { file: 'documents/api.yaml', guard: 'gateway' },
  webPeers: { file: 'policies/web/peers.yaml', open: 'open/web-peers.yaml', guard: 'web-sidecar' },
  webUsers: { file: 'policies/web/users.yaml', guard: 'web-sidecar' },
  orders: { file: 'policies/orders/orders.yaml', open: 'open/orders.yaml', guard: 'orders-sidecar' },
} as const satisfies Readonly<Record<string, Layer>>;

/** What is in force: for each layer's file, the source of its content; undefined: no file. */
type Plan = ReadonlyMap<string, string | undefined>;

const all: readonly Layer[] = Object.values(layers);
let current: Plan = new Map(all.map(({ file }) => [file, file]));

/** Every layer as it should be. */
export const everyLayer: Plan = current;

/** Every layer open except `one`, which has `source` or its own file. */
export function only(one?: Layer, source = one?.file): Plan {
  return new Map(all.map((layer) => [layer.file, layer === one ? source : layer.open]));
}

/**
 * Writes the files, and resolves when every process that they concern uses them. One file after the other: a process
 * that finds two changes may have read between them, and then its next generation is not yet the last.
 */
export async function putInForce(world: World, plan: Plan): Promise<void> {
  for (const { file, guard } of all) {
    if (plan.get(file) === current.get(file)) continue;
    const before = await generationOf(world, guard);
    putFile(world, file, plan.get(file));
    await world.processes.until(async () => (await generationOf(world, guard)) > before, `${guard} to use ${file}`);
  }
  current = plan;
}
