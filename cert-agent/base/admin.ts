// The small HTTP server of the health, metrics and admin ports and of the CA's operator socket. Its index is the table
// of its pages, so the list is always complete. It is off the data path, so node:http is enough.

import { chmodSync, lstatSync, rmSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { connect, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { type Address, formatAddress, isLoopback } from './address.ts';
import { reportBackground } from './background.ts';
import { asSallyportError, errnoOf, reasonOf, SallyportError } from './errors.ts';
import { createServer } from './http.ts';
import { packFor } from './pack.ts';
import { UnreadResponses } from './unread.ts';
import { absolutePath, makeDirectory } from './write.ts';

/** A request to a page. `url` has a host that means nothing. */
export interface PageRequest {
  readonly url: URL;
  /** The body as JSON, or undefined where there is none. */
  readonly body: unknown;
}

/** A response; 200 by default. An object is sent as JSON; long bodies in gzip, to clients that take it. Refusals are thrown as SallyportError. */
export interface PageAnswer {
  readonly status?: number;
  readonly type?: string;
  readonly body: string | Buffer | object;
}

/** One row of the table, with a sentence for the index. A `path` that ends in `/*` matches all paths below it. */
export interface Page {
  readonly method: 'GET' | 'POST' | 'DELETE';
  readonly path: string;
  readonly sentence: string;
  /** A refusal is thrown as SallyportError; its code decides the status. */
  answer(request: PageRequest): PageAnswer | Promise<PageAnswer>;
}

/** `maxBodyBytes` is 64 KiB by default. On a unix socket every Host is accepted. */
export interface AdminOptions {
  readonly listen: Address;
  readonly title: string;
  readonly pages: readonly Page[];
  /** Health ports answer any Host. Admin ports answer loopback names only, which stops DNS rebinding by a web page. */
  readonly anyHost?: boolean;
  readonly maxBodyBytes?: number;
}

/** A server that listens. */
export interface AdminServer {
  /** The bound address; for port 0, with the port that the system chose. */
  readonly address: Address;
  /** Closes all connections, also those that wait for a response. */
  close(): Promise<void>;
}

/** Probes, Prometheus and an operator need a few. Above this number, limitConnections closes one for each new one. */
const mostConnections = 64;

/** How long a client may neither send nor read anything. */
const idleMs = 10_000;

/**
 * Binds and serves. A unix socket gets mode 0600, and a stale one left by a killed process is replaced.
 * @throws SallyportError `port_in_use` or `listen_failed`.
 */
export async function startAdmin(options: AdminOptions): Promise<AdminServer> {
  /** Sockets whose response is being prepared. The idle limit does not apply to them: they wait for us. */
  const working = new Set<Socket>();
  const unread = new UnreadResponses();
  const server = createServer(
    // By default Node checks for overdue requests only every 30 s.
    { requestTimeout: idleMs, headersTimeout: idleMs, connectionsCheckingInterval: 2000, maxHeaderSize: 16_384 },
    (request, response) => {
      serve(options, request, response, { working, unread }).catch((error: unknown) =>
        reportBackground('admin', error),
      );
    },
  );
  limitConnections(server, working);
  await bind(server, options.listen);
  const bound = server.address();
  const address =
    typeof bound === 'object' && bound !== null && 'host' in options.listen
      ? { host: options.listen.host, port: bound.port }
      : options.listen;
  return {
    address,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/**
 * Any client may connect to a health port, but must not use up our descriptors or keep a probe out. The newest
 * connection is accepted and another one is closed, from the address that has the most. Of those, the oldest that waits
 * for its client goes first, else the oldest: a client that fills the port with slow requests loses its own
 * connections.
 */
function limitConnections(server: Server, working: ReadonlySet<Socket>): void {
  const open = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    if (open.size <= mostConnections) return;
    const byAddress = Map.groupBy([...open], ({ remoteAddress }) => remoteAddress);
    const [most = []] = [...byAddress.values()].sort((a, b) => b.length - a.length);
    const others = most.filter((one) => one !== socket);
    (others.find((one) => !working.has(one)) ?? others[0] ?? socket).destroy();
  });
  server.setTimeout(idleMs, (socket) => {
    if (!working.has(socket)) socket.destroy();
  });
  // Without free descriptors, accept() fails once per connection; the server goes on.
  server.on('error', (error) => server.listening && reportBackground('admin', error));
}

async function serve(
  options: AdminOptions,
  request: IncomingMessage,
  response: ServerResponse,
  { working, unread }: { readonly working: Set<Socket>; readonly unread: UnreadResponses },
): Promise<void> {
  let answer: PageAnswer;
  try {
    answer = await answerOf(options, request, working);
  } catch (error) {
    const known = asSallyportError(error, 'internal', 'this page failed');
    answer = { status: known.row.status, body: { code: known.code, message: known.message, hint: known.hint } };
  } finally {
    working.delete(request.socket);
  }
  const { body: said } = answer;
  const isText = typeof said === 'string' || Buffer.isBuffer(said);
  const plain = Buffer.isBuffer(said) ? said : Buffer.from(isText ? said : `${JSON.stringify(said, null, 2)}\n`);
  const { body, headers } = await packFor(request, plain);
  if (request.method !== 'HEAD' && !unread.hold(response, request.socket, body)) return refuseUnread(response);
  response.writeHead(answer.status ?? 200, {
    'content-type': answer.type ?? (isText ? 'text/plain; charset=utf-8' : 'application/json'),
    'content-length': body.length,
    ...headers,
    ...fixedFields,
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

const fixedFields = { 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' };

function refuseUnread(response: ServerResponse): void {
  const { code, message, row } = new SallyportError('overloaded', 'too many responses of this port are not read');
  response.writeHead(row.status, { 'content-type': 'application/json', ...fixedFields });
  response.end(`${JSON.stringify({ code, message }, null, 2)}\n`);
}

async function answerOf(options: AdminOptions, request: IncomingMessage, working: Set<Socket>): Promise<PageAnswer> {
  refuseForeignOrigin(options, request);
  const url = new URL(request.url ?? '/', 'http://localhost');
  const method = request.method === 'HEAD' ? 'GET' : request.method;
  if (url.pathname === '/' && method === 'GET') return { body: index(options) };
  const here = options.pages.filter((page) => matches(page.path, url.pathname));
  const page = here.find((one) => one.method === method);
  if (page !== undefined) {
    const body = await readBody(request, options.maxBodyBytes ?? 65_536);
    working.add(request.socket);
    return await page.answer({ url, body });
  }
  if (here.length === 0)
    throw new SallyportError('not_found', `there is no page ${url.pathname}`, {
      hint: url.pathname === '/metrics' ? 'metrics are at /stats/prometheus' : 'GET / lists the pages',
    });
  throw new SallyportError(
    'method_not_allowed',
    `${url.pathname} answers ${here.map((one) => one.method).join(', ')} only`,
  );
}

/** A web page must not make a browser on this machine send us requests: neither by DNS rebinding nor by a form. */
function refuseForeignOrigin(options: AdminOptions, request: IncomingMessage): void {
  if (options.anyHost === true || 'path' in options.listen) return;
  const host = (request.headers.host ?? '').replace(/:\d+$/, '').replace(/^\[|\]$/g, '');
  if (!isLoopback(host))
    throw new SallyportError('host_invalid', `the admin port answers loopback names only, not '${host}'`);
  if (request.method !== 'GET' && request.method !== 'HEAD' && request.headers.origin !== undefined) {
    throw new SallyportError('host_invalid', 'the admin port refuses requests from web pages');
  }
}

async function readBody(request: IncomingMessage, limit: number): Promise<unknown> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of request) {
    size += (part as Buffer).length;
    if (size > limit) throw new SallyportError('body_too_large', `the body is larger than ${limit} bytes`);
    parts.push(part as Buffer);
  }
  if (size === 0) return undefined;
  try {
    return JSON.parse(Buffer.concat(parts).toString('utf8'));
  } catch (error) {
    throw new SallyportError('body_invalid', `the body is not JSON: ${reasonOf(error)}`);
  }
}

function matches(pattern: string, path: string): boolean {
  return pattern.endsWith('/*')
    ? path.startsWith(pattern.slice(0, -1)) && path.length >= pattern.length
    : pattern === path;
}

function index(options: AdminOptions): string {
  const width = Math.max(...options.pages.map((page) => page.path.length));
  const lines = options.pages.map((page) => `${page.method.padEnd(6)} ${page.path.padEnd(width)}  ${page.sentence}`);
  return `${options.title}\n\n${lines.join('\n')}\n`;
}

async function bind(server: Server, listen: Address): Promise<void> {
  if ('path' in listen) {
    makeDirectory(dirname(absolutePath(listen.path)));
    await removeStaleSocket(listen.path);
  }
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, listen)));
    // The umask applies while the socket file is created: otherwise any user could connect before the chmod below.
    const mask = 'path' in listen ? process.umask(0o177) : undefined;
    server.listen(
      'path' in listen ? { path: listen.path } : { host: listen.host, port: listen.port, exclusive: true },
      resolve,
    );
    if (mask !== undefined) process.umask(mask);
  });
  if ('path' in listen) chmodSync(listen.path, 0o600);
}

/** The error that an operator sees when listen() fails. */
export function listenError(error: unknown, listen: Address): SallyportError {
  const where = formatAddress(listen);
  if (errnoOf(error) === 'EADDRINUSE') {
    return new SallyportError('port_in_use', `${where} is already in use`, {
      hint: 'stop the other process or choose another port',
    });
  }
  return new SallyportError('listen_failed', `cannot listen on ${where}: ${reasonOf(error)}`, { cause: error });
}

/** After any other error, such as a full queue or missing permission, a process may still be listening. */
const states: Readonly<Record<string, 'none' | 'stale'>> = { ENOENT: 'none', ECONNREFUSED: 'stale' };

/** A socket file without a listener was left by a killed process. Any other file is not ours to remove. */
async function removeStaleSocket(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new SallyportError('listen_failed', `cannot listen on ${path}: a file that is not a socket is in its place`, {
      hint: 'choose another path, or move the file away',
    });
  }
  const state = await new Promise<'none' | 'stale' | 'answers'>((resolve) => {
    const probe = connect({ path });
    probe.once('connect', () => resolve('answers'));
    probe.once('error', (error) => resolve(states[errnoOf(error) ?? ''] ?? 'answers'));
    probe.once('close', () => probe.destroy());
    probe.once('connect', () => probe.destroy());
  });
  if (state === 'answers') throw listenError({ code: 'EADDRINUSE' }, { path });
  if (state === 'stale') rmSync(path, { force: true });
}
