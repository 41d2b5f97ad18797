// Readiness: a sidecar that starts while a peer is missing reports it, and is ready once that peer has answered. Later
// it does not depend on the peer.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { startSidecar } from '../../sidecar/process/main.ts';
import { logTo, readHere, startBackend, startMesh, startOne } from '../fixtures/mesh.ts';
import { freePort, until } from '../fixtures/process.ts';

for (const protocol of ['http', 'tcp'] as const) {
  t.test(`the start waits for a missing peer: ${protocol}`, async (t) => {
    const backend = await startBackend(t, () => {});
    const mesh = await startMesh(t, { app: backend.port, protocol });
    await mesh.inbound.drain();
    t.same(
      mesh.outbound.readiness(),
      { ready: true, serving: true, waitingFor: [] },
      'a running sidecar continues without it',
    );

    const ports = new Map([mesh.outPort, mesh.fixedPort, mesh.outAdmin].map((port) => [String(port), freePort()]));
    let text = readFileSync(join(mesh.dir, 'web.yaml'), 'utf8');
    for (const [old, port] of ports) text = text.replaceAll(old, String(await port));
    const file = join(mesh.dir, 'again.yaml');
    writeFileSync(file, text);
    const lines: Record<string, unknown>[] = [];
    const sidecar = await startSidecar({ configFile: file, log: logTo(lines), version: 'test', read: readHere });
    t.teardown(() => sidecar.drain());
    const missing = `upstream orders: cannot connect to 127.0.0.1:${mesh.inPort}: connect ECONNREFUSED 127.0.0.1:${mesh.inPort}`;
    await until(() => sidecar.readiness().waitingFor.includes(missing), 'the peer to be missed');
    t.same(sidecar.readiness(), { ready: false, serving: true, waitingFor: [missing] });
    await until(() => lines.some((one) => one['msg'] === `waiting for ${missing}`), 'the log line');
    await startOne(t, join(mesh.dir, 'orders.yaml'));
    await until(() => sidecar.readiness().ready, 'the peer to be there');
  });
}
