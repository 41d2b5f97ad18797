// The measurements: each drives one stack with one job and reads the CPU time that its processes took for it.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Job, LoadResult } from './load.ts';
import type { Site, Stack } from './stack.ts';

const loadProgram = fileURLToPath(new URL('./load.ts', import.meta.url));

/** One job in a load process of its own. */
export function runLoad(job: Job): Promise<LoadResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [loadProgram, JSON.stringify(job)], { stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
    });
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0
        ? resolve(JSON.parse(text) as LoadResult)
        : reject(new Error(`the load on port ${'port' in job ? job.port : ''} failed`)),
    );
  });
}

export interface HttpFigures {
  /** CPU microseconds per request of the pair. */
  readonly cpuUs: number;
  readonly requestsPerSecond: number;
  readonly p50: number;
  readonly p99: number;
}

/** Keep-alive requests through both proxies. */
export async function measureHttp(stack: Stack, count: number, inFlight: number): Promise<HttpFigures> {
  const before = stack.outbound.cpuUs() + stack.inbound.cpuUs();
  const { seconds, p50, p99 } = await runLoad({ kind: 'http', port: stack.httpPort, count, inFlight });
  const cpu = stack.outbound.cpuUs() + stack.inbound.cpuUs() - before;
  return { cpuUs: cpu / count, requestsPerSecond: count / seconds, p50, p99 };
}

/** CPU microseconds of the inbound proxy per new mutual-TLS connection with one request. */
export async function measureHandshake(stack: Stack, site: Site, count: number): Promise<number> {
  const before = stack.inbound.cpuUs();
  const { chainPem: certPem, keyPem } = site.client;
  await runLoad({ kind: 'handshake', port: stack.tlsPort, count, inFlight: 8, certPem, keyPem, caPem: site.caPem });
  return (stack.inbound.cpuUs() - before) / count;
}

/** CPU milliseconds of the pair per GB through a TCP port; undefined where the stack has none. */
export async function measureTcp(stack: Stack, bytes: number): Promise<number | undefined> {
  if (stack.tcpPort === undefined) return undefined;
  const before = stack.outbound.cpuUs() + stack.inbound.cpuUs();
  await runLoad({ kind: 'tcp', port: stack.tcpPort, bytes });
  return (stack.outbound.cpuUs() + stack.inbound.cpuUs() - before) / 1000 / (bytes / 1e9);
}
