// Shared by all stacks: the app behind them, the certificates and the list of callers.

import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createAuthority, createCredential } from '../test/fixtures/pki.ts';
import type { Site } from './stack.ts';

export interface OpenSite {
  readonly site: Site;
  /** Ends the app and removes the files. */
  close(): void;
}

export async function openSite(): Promise<OpenSite> {
  const dir = mkdtempSync(join(tmpdir(), 'sallyport-perf-'));
  const app = spawn(process.execPath, [fileURLToPath(new URL('./app.ts', import.meta.url))], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return {
    site: await makeSite(dir, app),
    close() {
      app.kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

async function makeSite(dir: string, app: ChildProcess): Promise<Site> {
  const ports = once(app.stdout!, 'data');
  const authority = await createAuthority('perf.test');
  const client = await createCredential(authority, 'spiffe://perf.test/ns/shop/sa/client', {
    dns: ['client.perf.test'],
  });
  const server = await createCredential(authority, 'spiffe://perf.test/ns/shop/sa/server', {
    dns: ['orders.perf.test'],
  });
  const own = createHash('sha1').update(client.chain[0]!).digest('hex');
  const others = Array.from({ length: 99 }, () => randomBytes(20).toString('hex'));
  return {
    ...{ dir, client, server, caPem: authority.bundlePem },
    app: JSON.parse(String((await ports)[0])) as Site['app'],
    allowed: [...others.slice(0, 50), own, ...others.slice(50)],
  };
}
