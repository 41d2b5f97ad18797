// A process full of clients of one CA, on orders of ca.ts: agents as in production, streams of their protocol alone, or
// TLS connections of one workload to sidecars. Times are CLOCK_MONOTONIC, which processes of a machine share.

import { Agent as HttpsAgent, request } from 'node:https';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { connect, type TLSSocket } from 'node:tls';
import { readLines } from '../cert-agent/base/lines.ts';
import { createLog } from '../cert-agent/base/log.ts';
import { formatPem } from '../cert-agent/identity/bundle.ts';
import type { Identity } from '../cert-agent/identity/identity.ts';
import { generateKey } from '../cert-agent/identity/keys.ts';
import { fingerprintOf } from '../cert-agent/identity/verify.ts';
import { createCsr } from '../cert-agent/identity/x509.ts';
import { type Agent, startAgent } from '../cert-agent/main.ts';

export interface Order {
  readonly kind: 'agents' | 'streams' | 'connections' | 'renewals';
  readonly url: string;
  readonly bundleFile: string;
  readonly dir: string;
  /** File names of join tokens, one for each identity. */
  readonly tokens: readonly string[];
  /** Streams or renewals of each identity, or connections to each port. */
  readonly each: number;
  /** Renewals: each on a new connection, as agents do. */
  readonly fresh?: boolean;
  readonly ports?: readonly number[];
}

/** Renewals that wait for their answers at the same time. */
const inFlight = 16;

/** `opened` once all are; then `done` whenever all have seen a change, or have ended. */
export type Report =
  | { readonly kind: 'opened'; readonly count: number }
  | { readonly kind: 'done'; readonly count: number; readonly atMs: number; readonly sequence?: number };

const log = createLog({ component: 'perf', level: 'error' });
const report = (what: Report): void => void process.send?.(what);
const atMs = (): number => Number(process.hrtime.bigint()) / 1e6;

process.once('message', (order: Order) => void run(order));
process.once('disconnect', () => process.exit(0));

async function run(order: Order): Promise<void> {
  const agents = order.tokens.map((token, i) => joinAs(order, token, i));
  const identities: Identity[] = [];
  for (const agent of agents) identities.push(await identityOf(agent));
  if (order.kind === 'agents') return report({ kind: 'opened', count: agents.length });
  for (const agent of agents) await agent.close();
  if (order.kind === 'renewals') await renewAll(order, identities);
  else if (order.kind === 'streams') await openStreams(order, identities);
  else await openConnections(order, identities[0]!);
}

function joinAs({ url, bundleFile, dir }: Order, tokenFile: string, i: number): Agent {
  return startAgent({ caUrl: url, caBundleFile: bundleFile, tokenFile, outDir: join(dir, String(i)), log });
}

function identityOf({ identity }: Agent): Promise<Identity> {
  const { promise, resolve } = Promise.withResolvers<Identity>();
  const look = (): void => {
    const now = identity.current();
    if (now !== undefined) resolve(now);
  };
  identity.onChange(look);
  look();
  return promise;
}

/**
 * Streams that acknowledge what they get. A thousand agents verify it on a thousand machines, so that here each
 * document is read once, by the first that gets it.
 */
async function openStreams({ url, each }: Order, identities: readonly Identity[]): Promise<void> {
  const acknowledgements = new Map<string, Said>();
  let all = 0;
  let seen = 0;
  let newest = -1;
  for (const { svid } of identities)
    for (let i = 0; i < each; i++) {
      const socket = await openStream(url, svid);
      let last = -1;
      all++;
      readLines(socket, 1_048_576, (line) => {
        if (!line.includes('"document"')) return;
        const said = acknowledgements.get(line) ?? acknowledgementOf(line);
        acknowledgements.set(line, said);
        socket.write(said.line);
        // The end of the ledger changes the document too.
        if (said.sequence === last) return;
        last = said.sequence;
        if (last > newest) seen = 0;
        newest = Math.max(newest, last);
        if (last === newest && ++seen === all) report({ kind: 'done', count: all, atMs: atMs(), sequence: last });
      });
    }
  while (seen < all) await new Promise((resolve) => setTimeout(resolve, 10));
  report({ kind: 'opened', count: all });
}

/** Renews by requests that were made before, since only the CA is measured. */
async function renewAll({ url, each, fresh }: Order, identities: readonly Identity[]): Promise<void> {
  const csrs: string[] = [];
  for (let i = 0; i < 64; i++) csrs.push((await createCsr(generateKey())).toString('base64'));
  const left = identities.flatMap(({ svid }) => {
    const agent = new HttpsAgent({ cert: svid.chainPem, key: svid.keyPem, keepAlive: fresh !== true, maxSockets: 1 });
    return [{ agent, count: each }];
  });
  report({ kind: 'opened', count: left.length * each });
  await new Promise((resolve) => process.once('message', resolve));
  let n = 0;
  const work = async (): Promise<void> => {
    for (let one = left.pop(); one !== undefined; one = left.pop())
      for (let i = 0; i < one.count; i++) await renew(url, one.agent, csrs[n++ % csrs.length]!);
  };
  await Promise.all(Array.from({ length: inFlight }, work));
  report({ kind: 'done', count: n, atMs: atMs() });
}

function renew(url: string, agent: HttpsAgent, csr: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const call = request(`${url}/v1/svid/renew`, { agent, method: 'POST', rejectUnauthorized: false }, (response) => {
      response.resume();
      response.once('end', () =>
        response.statusCode === 200 ? resolve() : reject(new Error(`the CA answered ${response.statusCode}`)),
      );
    });
    call.once('error', reject);
    call.end(JSON.stringify({ csr }));
  });
}

function openStream(url: string, { chainPem: cert, keyPem: key }: Identity['svid']): Promise<Socket> {
  const headers = { connection: 'upgrade', upgrade: 'sallyport-watch/1' };
  // Perf only: the CA is ours, and agents verify it elsewhere.
  const options = { cert, key, headers, agent: false, rejectUnauthorized: false } as const;
  return new Promise((resolve, reject) => {
    const call = request(`${url}/v1/watch`, options);
    call.once('upgrade', (_response, socket, head) => {
      if (head.length > 0) socket.unshift(head);
      socket.once('close', () => process.exit(1));
      resolve(socket);
    });
    call.once('response', ({ statusCode }) => reject(new Error(`the CA answered ${statusCode}`)));
    call.once('error', reject);
    call.end();
  });
}

interface Said {
  readonly line: string;
  /** Of the bundle. */
  readonly sequence: number;
}

function acknowledgementOf(line: string): Said {
  const { document } = JSON.parse(line);
  const roots = document.keys.map(({ x5c }: { x5c: string[] }) => fingerprintOf(Buffer.from(x5c[0]!, 'base64')));
  const { spiffe_sequence: bundle, sallyport_denied: denied } = document;
  const said = JSON.stringify({ bundle, denied: denied.sequence, roots, sidecars: 0 });
  return { line: `${said}\n`, sequence: bundle };
}

async function openConnections({ ports = [], each }: Order, { svid, bundles }: Identity): Promise<void> {
  const open = new Set<TLSSocket>();
  const { chainPem: cert, keyPem: key } = svid;
  const ca = [...bundles.values()].flatMap(({ roots }) => formatPem([...roots]));
  for (const port of ports)
    for (let i = 0; i < each; i++) {
      const socket = connect({
        ...{ host: '127.0.0.1', port, cert, key, ca, ALPNProtocols: ['h2'] },
        // A SPIFFE ID is no host name; sidecars are verified elsewhere.
        checkServerIdentity: () => undefined,
      });
      await new Promise<void>((resolve, reject) => {
        socket.once('secureConnect', resolve);
        socket.once('error', reject);
      });
      socket.on('error', () => {});
      // HTTP/2's preface and empty SETTINGS: a connection that has said nothing may be closed for that.
      socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0', 'latin1');
      socket.resume();
      open.add(socket);
      socket.once('close', () => {
        open.delete(socket);
        if (open.size === 0) report({ kind: 'done', count: ports.length * each, atMs: atMs() });
      });
    }
  report({ kind: 'opened', count: open.size });
}
