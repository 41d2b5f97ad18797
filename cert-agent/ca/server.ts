// The CA's listener: TLS 1.3 with the CA's own SVID, and the table of routes. Any client may connect. A client's
// identity is decided per request (evidence.ts), because a new workload has no certificate yet. Without an SVID it is
// plaintext, for the routes whose responses are signed.

import { constants } from 'node:crypto';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer, type ServerOptions, type Server as TlsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Address } from '../base/address.ts';
import { listenError } from '../base/admin.ts';
import { type Code, codes, reasonOf, SallyportError } from '../base/errors.ts';
import { createServer as createPlainServer } from '../base/http.ts';
import { readLines } from '../base/lines.ts';
import type { Live } from '../base/live.ts';
import type { Log } from '../base/log.ts';
import { packFor } from '../base/pack.ts';
import { sparseLogOf } from '../base/sparse-log.ts';
import { UnreadResponses } from '../base/unread.ts';
import { proveChainShown } from '../identity/own-handshake.ts';
import { type Presented, readPresented } from '../identity/peer-chain.ts';
import type { Svid } from '../identity/svid.ts';
import type { Receiver, Sink } from './agents.ts';
import type { ApiAnswer, Route, StreamRoute } from './api.ts';
import { discardBody, readBytes, readJsonBody } from './body.ts';
import { type ConnectionLimits, type ConnectionTable, watchConnections } from './connections.ts';

/** The caller owns and closes all of it, after the server. */
export interface ServerParts {
  readonly listen: Extract<Address, { host: string }>;
  /** Undefined: plaintext. */
  readonly svid: Live<Svid> | undefined;
  readonly routes: readonly (Route | StreamRoute)[];
  readonly log: Log;
  /** Called for every refusal. */
  readonly onRefusal: (code: Code) => void;
  /** Defined if the client presented a valid SVID of ours in the handshake; the result says whether it still is. */
  readonly knownBy: (presented: Presented) => (() => boolean) | undefined;
  /** Called for each connection that was closed or refused to make room. */
  readonly onDrop: () => void;
  readonly limits?: Partial<ServerLimits>;
}

/** Times are milliseconds. See `defaultLimits`. */
export interface ServerLimits extends ConnectionLimits {
  /** Maximum of POSTs with a complete body; above it, `ca_overloaded`. An issuance takes 4 ms: a second of work. */
  readonly issuing: number;
  /** How long close() waits for requests in flight. */
  readonly drainMs: number;
}

export const defaultLimits: ServerLimits = Object.freeze({
  connections: 4096,
  strangerIdleMs: 15_000,
  issuing: 256,
  drainMs: 5000,
});

/** A listener that serves. */
export interface CaServer {
  /** The bound address; for port 0, with the port that the system chose. */
  readonly address: Extract<Address, { host: string }>;
  /** Stops accepting requests and finishes those in flight. */
  close(): Promise<void>;
}

/** @throws SallyportError `port_in_use`, `listen_failed` or `node_unsuitable`. */
export async function startServer(parts: ServerParts): Promise<CaServer> {
  const { svid } = parts;
  // Clients renew with a chain of leaf and intermediate, like our own.
  if (svid !== undefined) await proveChainShown(svid.current());
  const limits = { ...defaultLimits, ...parts.limits };
  const chains = new WeakMap<Socket, Presented>();
  let server: Server | TlsServer;
  let stopRotation = (): void => {};
  if (svid === undefined) server = createPlainServer(httpOptions);
  else {
    const secure = createServer({ ...tlsOptions(svid), ...httpOptions });
    rememberChains(secure, chains);
    // All options again: setSecureContext uses defaults for missing ones, which include TLS 1.2 and tickets.
    stopRotation = svid.onChange(() => secure.setSecureContext(tlsOptions(svid)));
    server = secure;
  }
  const table = watchConnections(server, {
    limits,
    knownBy: (socket) => parts.knownBy(chains.get(socket) ?? nothing),
    onDrop(reason) {
      parts.onDrop();
      sparseLogOf(parts.log)('ca_overloaded', reason);
    },
  });
  const state = { issuing: 0, closing: false, unread: new UnreadResponses() };
  const streams = new Set<Socket>();
  const open = new WeakMap<Socket, number>();
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const { socket } = request;
    // The parser goes on with what it has in hand.
    if (socket.destroyed) return;
    const pipelined = open.get(socket) ?? 0;
    if (pipelined >= mostPipelined) {
      parts.onDrop();
      sparseLogOf(parts.log)('ca_overloaded', `a client sent more than ${mostPipelined} requests at once`);
      return void socket.destroy();
    }
    open.set(socket, pipelined + 1);
    response.once('close', () => open.set(socket, (open.get(socket) ?? 1) - 1));
    const turn = table.began(socket);
    // A body that trickles in does not make the connection busy.
    if (request.method === 'GET') turn.read();
    else request.once('end', turn.read);
    response.once('close', turn.done);
    const presented = chains.get(socket) ?? nothing;
    void serve({ parts, limits, table, state, presented }, request, response);
  });
  server.on('upgrade', (request: IncomingMessage, socket: Socket, first: Buffer) => {
    if (first.length > 0) socket.unshift(first);
    const turn = table.began(socket);
    turn.read();
    streams.add(socket);
    socket.once('close', () => {
      streams.delete(socket);
      turn.done();
    });
    const presented = chains.get(socket) ?? nothing;
    upgrade({ parts, presented, closing: state.closing, ended: turn.done }, request, socket);
  });
  // Without free descriptors, accept() fails once per connection; that must not end the CA.
  server.on('error', (error) => parts.log.error({ code: 'accept_failed' }, reasonOf(error)));
  server.on('tlsClientError', (error) => parts.log.debug({ code: 'handshake_failed' }, reasonOf(error)));
  await listen(server, parts.listen);
  return {
    address: { host: parts.listen.host, port: (server.address() as AddressInfo).port },
    close() {
      state.closing = true;
      stopRotation();
      return closeServer(server, streams, limits.drainMs);
    },
  };
}

/** Clients wait for a response. Requests that are sent before would be answered from memory, however many they are. */
const mostPipelined = 8;

const httpOptions = Object.freeze({
  headersTimeout: 10_000,
  requestTimeout: 10_000,
  // By default Node checks for overdue requests only every 30 s.
  connectionsCheckingInterval: 2000,
  // For clients with an SVID; unknown clients have less (connections.ts).
  keepAliveTimeout: 65_000,
  maxHeaderSize: 16_384,
});

function tlsOptions(svid: Live<Svid>): ServerOptions {
  const { chainPem, keyPem } = svid.current();
  return {
    key: keyPem,
    cert: chainPem,
    ALPNProtocols: ['http/1.1'],
    handshakeTimeout: 10_000,
    // We verify the client's chain ourselves (peer-chain.ts); Node's own roots must not be used instead.
    ca: [],
    minVersion: 'TLSv1.3',
    ecdhCurve: 'X25519MLKEM768:X25519:P-256',
    // A resumed session is not verified again, so its expiry or revocation would go unnoticed.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    requestCert: true,
    rejectUnauthorized: false,
  };
}

/** A socket returns its chain only to the first call, so it is read once, here, and kept for later requests. */
function rememberChains(server: TlsServer, chains: WeakMap<Socket, Presented>): void {
  server.on('secureConnection', (socket: TLSSocket) => chains.set(socket, readPresented(socket)));
}

const nothing: Presented = Object.freeze({ chain: [], complaint: undefined });

interface Turn {
  readonly parts: ServerParts;
  readonly limits: ServerLimits;
  readonly table: ConnectionTable;
  readonly state: { issuing: number; closing: boolean; readonly unread: UnreadResponses };
  readonly presented: Presented;
}

async function serve(turn: Turn, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { state, parts, table } = turn;
  let answer: ApiAnswer;
  try {
    answer = await answerOf(turn, request);
    if (answer.isScrape === true) answer = await asScrape(answer, request, response, state.unread);
  } catch (error) {
    answer = refusalOf(parts, error, request);
  }
  await discardBody(request);
  // The rest of a body that was too long to discard must not be parsed as the next request.
  if (state.closing || !request.complete) response.setHeader('connection', 'close');
  const keepAlive = table.keepAliveOf(request.socket);
  if (keepAlive !== undefined) response.setHeader('keep-alive', `timeout=${keepAlive}`);
  response.writeHead(answer.status ?? 200, {
    'content-type': answer.type ?? 'application/json',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    ...answer.headers,
    // RFC 9110 section 8.6: with 304, the length would be that of the response that was not sent.
    ...(answer.status === 304 ? {} : { 'content-length': Buffer.byteLength(answer.body) }),
  });
  if (answer.body.length <= sliceBytes) response.end(answer.body);
  else sendInSlices(response, typeof answer.body === 'string' ? Buffer.from(answer.body) : answer.body);
}

/** As on health and admin ports. @throws SallyportError `ca_overloaded` if too many are unread. */
async function asScrape(
  answer: ApiAnswer,
  request: IncomingMessage,
  response: ServerResponse,
  unread: UnreadResponses,
): Promise<ApiAnswer> {
  const plain = typeof answer.body === 'string' ? Buffer.from(answer.body) : answer.body;
  const { body, headers } = await packFor(request, plain);
  if (!unread.hold(response, request.socket, body))
    throw new SallyportError('ca_overloaded', 'too many responses with metrics are not read');
  return { ...answer, body, headers: { ...answer.headers, ...headers } };
}

const sliceBytes = 65_536;

/** How long a client may take for a large response. */
const slowestMs = 60_000;

/**
 * Sends a large body as the client reads it. At once, all of it would be encrypted into memory for every client that
 * does not read.
 */
function sendInSlices(response: ServerResponse, body: Buffer): void {
  const deadline = setTimeout(() => response.destroy(), slowestMs);
  response.once('close', () => clearTimeout(deadline));
  let at = 0;
  const send = (): void => {
    while (at < body.length) {
      const part = body.subarray(at, at + sliceBytes);
      at += sliceBytes;
      if (!response.write(part)) return void response.once('drain', send);
    }
    response.end();
  };
  send();
}

async function answerOf({ parts, limits, state, presented }: Turn, request: IncomingMessage): Promise<ApiAnswer> {
  const path = pathOf(request);
  const here = parts.routes.filter((one) => restOf(one.path, path) !== undefined);
  const route = here.find((one) => one.method === request.method);
  if (route === undefined) throw noRoute(here, path);
  const asked = {
    presented,
    ifNoneMatch: request.headers['if-none-match'],
    remote: request.socket.remoteAddress ?? '',
    rest: restOf(route.path, path) ?? '',
  };
  if ('open' in route) throw new SallyportError('upgrade_required', `${path} needs Upgrade: ${route.upgrade}`);
  if (route.method === 'GET') return await route.answer({ ...asked, body: undefined });
  // Counted once the body is complete: bodies that trickle in must not keep other clients from being served.
  const { maxBytes } = route;
  const body = maxBytes === undefined ? await readJsonBody(request) : await readBytes(request, maxBytes);
  if (state.issuing >= limits.issuing)
    throw new SallyportError('ca_overloaded', `${state.issuing} requests are waiting`);
  state.issuing++;
  try {
    return await route.answer({ ...asked, body });
  } finally {
    state.issuing--;
  }
}

/** What follows the beginning of a route's path, or '' if the path is exact. Undefined for another path. */
function restOf(route: string, path: string): string | undefined {
  if (!route.endsWith('}')) return route === path ? '' : undefined;
  const beginning = route.slice(0, route.lastIndexOf('{'));
  return path.startsWith(beginning) ? path.slice(beginning.length) : undefined;
}

/** What a client may send in one line of a stream. */
const longestLine = 16_384;

interface Upgrade extends Pick<Turn, 'parts' | 'presented'> {
  readonly closing: boolean;
  /** The last byte is written: the connection may be closed to make room. */
  ended(): void;
}

/** Begins a stream, or refuses it as HTTP. */
function upgrade({ parts, presented, closing, ended }: Upgrade, request: IncomingMessage, socket: Socket): void {
  // Node's HTTP server has let go of the socket. Without a listener, a reset would end the process.
  socket.on('error', () => {});
  const remote = socket.remoteAddress ?? '';
  let receiver: Receiver | undefined;
  const path = pathOf(request);
  try {
    const route = parts.routes.find((one): one is StreamRoute => one.path === path && 'open' in one);
    if (route === undefined) throw noRoute([], path);
    if (closing) throw new SallyportError('ca_overloaded', 'the CA is stopping');
    if (request.method !== route.method || request.headers.upgrade !== route.upgrade)
      throw new SallyportError('upgrade_required', `${path} needs GET with Upgrade: ${route.upgrade}`);
    const asked = { presented, ifNoneMatch: request.headers['if-none-match'], remote, body: undefined, rest: '' };
    socket.setTimeout(0);
    receiver = route.open(asked, sinkOf(socket, route.upgrade, ended));
  } catch (error) {
    const { status = 500, body } = refusalOf(parts, error, request);
    const head = `HTTP/1.1 ${status} Refused\r\nconnection: close\r\ncontent-type: application/json\r\n`;
    socket.write(`${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
    endSoon(socket);
    ended();
    return;
  }
  const { line, gone } = receiver;
  socket.once('close', gone);
  readLines(socket, longestLine, (text) => {
    try {
      line(text);
    } catch (error) {
      refusalOf(parts, error, request);
      socket.destroy();
    }
  });
}

/** How long a client may take to read the end of a stream, or its refusal. */
const lingerMs = 2000;

/** Ends a connection also if the client does not end its own side: it would stay half-open for ever. */
function endSoon(socket: Socket): void {
  socket.end();
  const timer = setTimeout(() => socket.destroy(), lingerMs);
  socket.once('close', () => clearTimeout(timer));
}

/** The head is sent before the first line: until then, opening can be refused. */
function sinkOf(socket: Socket, protocol: string, ended: () => void): Sink {
  let begun = false;
  return {
    write(text) {
      const head = `HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: ${protocol}\r\n\r\n`;
      socket.write(begun ? text : head + text);
      begun = true;
    },
    pending: () => socket.writableLength,
    end(abruptly = false) {
      if (abruptly) return void socket.destroy();
      endSoon(socket);
      ended();
    },
  };
}

/** The path without the query, which we do not use and which may contain secrets that must not be logged. */
function pathOf(request: IncomingMessage): string {
  return (request.url ?? '/').split('?', 1)[0] ?? '/';
}

function noRoute(here: readonly Pick<Route, 'method'>[], path: string): SallyportError {
  if (here.length === 0) {
    return new SallyportError('not_found', 'no such path', { hint: 'GET /v1/openapi.json lists them' });
  }
  return new SallyportError('method_not_allowed', `${path} answers ${here.map((one) => one.method).join(', ')} only`);
}

/** The error as the client sees it. Details of internal errors stay in the log: they name files and reasons. */
function refusalOf(parts: ServerParts, error: unknown, request: IncomingMessage): ApiAnswer {
  const known = error instanceof SallyportError ? error : new SallyportError('internal', reasonOf(error));
  const { code, message, hint, row } = known;
  const path = pathOf(request);
  parts.onRefusal(code);
  const ours = row.status >= 500;
  parts.log[ours ? 'error' : 'warn']({ code, remote: request.socket.remoteAddress, path }, message);
  const shown = ours ? { code, message: ourFaults[code] ?? 'the CA failed' } : { code, message, hint };
  return { status: row.status, headers: refusalHeaders(parts, code, path), body: JSON.stringify(shown) };
}

function refusalHeaders(parts: ServerParts, code: Code, path: string): Record<string, string> {
  if (codes[code].status === 503) return { 'retry-after': '1' };
  if (code !== 'method_not_allowed') return {};
  // RFC 9110 section 15.5.6: a 405 lists the allowed methods.
  const methods = parts.routes.filter((one) => restOf(one.path, path) !== undefined).map((one) => one.method);
  return { allow: methods.join(', ') };
}

const ourFaults: Readonly<Partial<Record<Code, string>>> = {
  store_failed: 'the CA cannot write to its store: it issues nothing, but still serves bundle and deny list',
  ca_overloaded: 'the CA has more requests than it can sign for',
  issuer_expired: 'the certificate that the CA signs with has expired',
};

async function listen(server: Server, { host, port }: ServerParts['listen']): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, { host, port })));
    server.listen({ host, port, exclusive: true }, resolve);
  });
}

async function closeServer(server: Server, streams: ReadonlySet<Socket>, drainMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  const timer = setTimeout(() => {
    server.closeAllConnections();
    // Node does not count those that have left HTTP.
    for (const socket of streams) socket.destroy();
  }, drainMs);
  await closed;
  clearTimeout(timer);
}
