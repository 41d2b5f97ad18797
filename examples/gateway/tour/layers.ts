// The layers, each a file, and which of them are in force. Open is what a layer is when somebody has forgotten it, or has
// got it wrong.

import type { World } from '../../two-services/demo/world.ts';
import { type Guard, generationOf, putFile } from './world.ts';

export interface Layer {
  /** The file that it is, where it is in force. */
  readonly file: string;
  /** What takes its place when it is open; nothing at all where this is absent. */
  readonly open?: string;
  readonly guard: Guard;
}

export const layers = {
  door: { file: 'documents/front.yaml', open: 'open/front.yaml', guard: 'gateway' },
  users: { file: 'documents/users.yaml', open: 'open/users.yaml', guard: 'gateway' },
  limits: { file: 'documents/limits.yaml', guard: 'gateway' },
  webPeers: { file: 'policies/web/peers.yaml', open: 'open/web-peers.yaml', guard: 'web-sidecar' },
  webUsers: { file: 'policies/web/users.yaml', guard: 'web-sidecar' },
  orders: { file: 'policies/orders/orders.yaml', open: 'open/orders.yaml', guard: 'orders-sidecar' },
} as const satisfies Readonly<Record<string, Layer>>;

/** What of the layers is in force: by the file of the layer, the file that is there; undefined where there is none. */
type Plan = ReadonlyMap<string, string | undefined>;

const all: readonly Layer[] = Object.values(layers);
let current: Plan = new Map(all.map(({ file }) => [file, file]));

/** Every layer as it should be. */
export const everyLayer: Plan = current;

/** Every layer open but `one`, which is what `source` says, or its own file. */
export function only(one?: Layer, source = one?.file): Plan {
  return new Map(all.map((layer) => [layer.file, layer === one ? source : layer.open]));
}

/**
 * Puts the files there, and resolves when everybody whom they concern goes by them. One file after the other: who finds two
 * changed may have read between them, and then its next generation is not yet the last.
 */
export async function putInForce(world: World, plan: Plan): Promise<void> {
  for (const { file, guard } of all) {
    if (plan.get(file) === current.get(file)) continue;
    const before = await generationOf(world, guard);
    putFile(world, file, plan.get(file));
    await world.processes.until(async () => (await generationOf(world, guard)) > before, `${guard} to go by ${file}`);
  }
  current = plan;
}
