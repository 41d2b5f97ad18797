// The measurements: each drives one stack with one job and reads the CPU time that its processes took for it.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Job, LoadResult } from './load.ts';
import { rssMbOf, startRunning } from './process.ts';
import type { Site, Stack } from './stack.ts';

const loadProgram = fileURLToPath(new URL('./load.ts', import.meta.url));
const bareProgram = fileURLToPath(new URL('./bare.ts', import.meta.url));

function startLoad(job: Job): ChildProcess {
  return spawn(process.execPath, [loadProgram, JSON.stringify(job)], { stdio: ['pipe', 'pipe', 'pipe'] });
}

/** One job in a load process of its own. */
export function runLoad(job: Job): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const child = startLoad(job);
    let text = '';
    let said = '';
    child.stdout!.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    child.stderr!.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
    });
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0
        ? resolve(JSON.parse(text) as LoadResult)
        : reject(new Error(`the load ${job.kind} on port ${job.port} failed: ${said}`)),
    );
  });
}

export interface Measured extends LoadResult {
  /** CPU microseconds of the pair. */
  readonly cpuUs: number;
}

/** One job through both proxies of a stack. */
export async function measure(stack: Stack, job: Job): Promise<Measured> {
  const spent = (): number => stack.outbound.cpuUs() + stack.inbound.cpuUs();
  const before = spent();
  const result = await runLoad(job);
  return { ...result, cpuUs: spent() - before };
}

/** CPU microseconds of the inbound proxy per new mutual-TLS connection with one request. */
export async function measureHandshake(stack: Stack, site: Site, count: number): Promise<number> {
  const before = stack.inbound.cpuUs();
  const { chainPem: certPem, keyPem } = site.client;
  await runLoad({ kind: 'handshake', port: stack.tlsPort, count, inFlight: 8, certPem, keyPem, caPem: site.caPem });
  return (stack.inbound.cpuUs() - before) / count;
}

/** KB that each of `count` idle mutual-TLS connections on `port` costs the process. */
export async function measureIdle(port: number, rssMb: () => number, site: Site, count: number): Promise<number> {
  const before = rssMb();
  const { chainPem: certPem, keyPem } = site.client;
  const load = startLoad({ kind: 'idle', port, count, certPem, keyPem, caPem: site.caPem });
  await Promise.race([
    once(load.stderr!, 'data'),
    once(load, 'exit').then(() => Promise.reject(new Error('the idle connections did not come about'))),
  ]);
  // What the handshakes left behind is collected at the next occasion; that is not what a connection costs.
  await new Promise((resolve) => setTimeout(resolve, 3000));
  const after = rssMb();
  load.stdin!.end();
  await once(load, 'exit');
  return ((after - before) * 1024) / count;
}

/** The same of a TLS server of Node's own. */
export async function measureBareIdle(site: Site, count: number): Promise<number> {
  const shown = { cert: site.server.chainPem, key: site.server.keyPem, ca: site.caPem };
  const server = startRunning(process.execPath, [bareProgram, JSON.stringify(shown)], site.dir, true);
  const [text] = (await once(server.child.stdout!, 'data')) as [Buffer];
  try {
    return await measureIdle(Number(text.toString()), () => rssMbOf(server.child.pid!), site, count);
  } finally {
    await server.stop();
  }
}
