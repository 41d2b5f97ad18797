// Our own pair, from the built dist/, run as a user would.

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort } from '../test/fixtures/process.ts';
import { startRunning, whenListening } from './process.ts';
import { type Checkout, placeFor, type Site, type Stack } from './stack.ts';

/** The root of this checkout. */
export const here = fileURLToPath(new URL('..', import.meta.url));

/** The built program of a checkout. */
export function programOf(checkout: string): string {
  return join(checkout, 'dist/sidecar/cli.js');
}

/** The options with which the first lines of a checkout's `bin.mjs` begin Node. */
function nodeOptionsOf(checkout: string): string[] {
  const options = /exec node ((?:--\S+ )*)"\$0"/.exec(readFileSync(join(checkout, 'sidecar/bin.mjs'), 'latin1'))?.[1];
  return options?.trim().split(' ') ?? [];
}

/** Node's arguments for the built program of a checkout, as its command passes them. */
export function commandOf(checkout: string): string[] {
  return [...nodeOptionsOf(checkout), programOf(checkout)];
}

const probeProgram = fileURLToPath(new URL('./heap-probe.ts', import.meta.url));

/**
 * Starts both sidecars of a checkout's `dist/` and waits for their ports. `probed` processes report their heap
 * allocations.
 */
export async function startOurs(site: Site, { name, root }: Checkout, probed = false): Promise<Stack> {
  const [httpPort, http2Port, tcpPort, tlsPort, tlsHttp2Port, tlsTcpPort] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ]);
  const dir = placeFor(site, name);
  mkdirSync(join(dir, 'policies'));
  for (const [side, one] of [
    ['client', site.client],
    ['server', site.server],
  ] as const) {
    writeFileSync(join(dir, `${side}.pem`), one.chainPem);
    writeFileSync(join(dir, `${side}.key`), one.keyPem, { mode: 0o600 });
  }
  writeFileSync(join(dir, 'bundle.pem'), site.caPem);
  writeFileSync(join(dir, 'policies', 'allow.yaml'), policies());
  const head = (side: string): string =>
    `trustDomain: perf.test\nworkload: { namespace: shop, serviceAccount: ${side} }\nidentity: { files: { svid: ${side}.pem, key: ${side}.key, bundle: bundle.pem } }\naccessLog: ${side}.log\n`;
  writeFileSync(
    join(dir, 'server.yaml'),
    `${head('server')}policies: policies\ninbound:\n  - { port: ${tlsPort}, app: "127.0.0.1:${site.app.http}", policyPort: 8080 }\n  - { port: ${tlsHttp2Port}, app: "127.0.0.1:${site.app.http2}", protocol: http2, policyPort: 8080 }\n  - { port: ${tlsTcpPort}, app: "127.0.0.1:${site.app.tcp}", protocol: tcp, policyPort: 9000 }\n`,
  );
  const identity = 'identity: spiffe://perf.test/ns/shop/sa/server';
  writeFileSync(
    join(dir, 'client.yaml'),
    `${head('client')}outbound:\n  - { port: ${httpPort}, upstream: orders }\n  - { port: ${http2Port}, upstream: orders2, protocol: http2 }\n  - { port: ${tcpPort}, upstream: bytes, protocol: tcp }\nupstreams:\n  orders: { endpoints: ["127.0.0.1:${tlsPort}"], ${identity} }\n  orders2: { endpoints: ["127.0.0.1:${tlsHttp2Port}"], ${identity} }\n  bytes: { endpoints: ["127.0.0.1:${tlsTcpPort}"], ${identity} }\n`,
  );
  const start = (side: string): ReturnType<typeof startRunning> => {
    process.env['SALLYPORT_LOG_LEVEL'] = 'error';
    const args = [...commandOf(root), 'sidecar', '--config', join(dir, `${side}.yaml`)];
    return startRunning(
      process.execPath,
      probed ? ['--import', probeProgram, ...args] : args,
      dir,
      probed ? 'ipc' : 'ignore',
    );
  };
  const stack = {
    ...{ name, inbound: start('server'), outbound: start('client') },
    ...{ httpPort, http2Port, tlsPort, tcpPort },
  };
  await Promise.all([httpPort, http2Port, tlsPort, tcpPort, tlsTcpPort].map((port) => whenListening(port)));
  return stack;
}

/** 100 rules, each for one caller; the benchmark's caller is in the middle. */
function policies(): string {
  const rules = Array.from(
    { length: 100 },
    (_, i) =>
      `  - from: [{ source: { principals: [perf.test/ns/shop/sa/${i === 50 ? 'client' : `other-${i}`}] } }]\n    to: [{ operation: { methods: [GET, POST], paths: ["/v1/orders/*"], ports: ["8080"] } }, { operation: { ports: ["9000"] } }]\n`,
  );
  // Rules for methods do not apply to TCP, so the stream has a rule of its own.
  return `apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: callers, namespace: shop }\nspec:\n  rules:\n${rules.join('')}  - from: [{ source: { principals: [perf.test/ns/shop/sa/client] } }]\n    to: [{ operation: { ports: ["9000"] } }]\n`;
}
