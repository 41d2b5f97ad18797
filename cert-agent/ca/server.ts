// The CA's listener: TLS 1.3 with the CA's own SVID, a table of routes behind it. Anyone may connect; who a caller is,
// is decided per request (evidence.ts), because a new workload has no certificate yet.

import { constants } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer, type Server, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import type { TLSSocket } from 'node:tls';
import type { Address } from '../base/address.ts';
import { listenError } from '../base/admin.ts';
import { type Code, codes, reasonOf, SallyportError } from '../base/errors.ts';
import type { Live } from '../base/live.ts';
import type { Log } from '../base/log.ts';
import { sparseLogOf } from '../base/sparse-log.ts';
import { proveChainShown } from '../identity/own-handshake.ts';
import { type Presented, readPresented } from '../identity/peer-chain.ts';
import type { Svid } from '../identity/svid.ts';
import type { ApiAnswer, Route } from './api.ts';
import { discardBody, readJsonBody } from './body.ts';
import { type ConnectionLimits, type ConnectionTable, watchConnections } from './connections.ts';

export interface ServerParts {
  readonly listen: Extract<Address, { host: string }>;
  readonly svid: Live<Svid>;
  readonly routes: readonly Route[];
  readonly log: Log;
  /** Told of every refusal, whoever it was. */
  readonly onRefusal: (code: Code) => void;
  /** Whether what a client presented in its handshake is a valid SVID of ours. */
  readonly isKnown: (presented: Presented) => boolean;
  /** Told of each connection that was closed, or refused, for want of room. */
  readonly onDrop: () => void;
  readonly limits?: Partial<ServerLimits>;
}

export interface ServerLimits extends ConnectionLimits {
  /** POSTs whose body is there; beyond, `ca_overloaded`. An issuance takes 4 ms, so this is a second of work. */
  readonly issuing: number;
  /** How long close() waits for what is in flight. */
  readonly drainMs: number;
}

export const defaultLimits: ServerLimits = Object.freeze({
  connections: 4096,
  strangerIdleMs: 15_000,
  issuing: 256,
  drainMs: 5000,
});

export interface CaServer {
  /** As bound, with the port that the system chose for port 0. */
  readonly address: Extract<Address, { host: string }>;
  /** Takes no more requests, finishes those in flight. */
  close(): Promise<void>;
}

/** @throws SallyportError `port_in_use`, `listen_failed` or `node_unsuitable`. */
export async function startServer(parts: ServerParts): Promise<CaServer> {
  // Renewals come with a chain of a leaf and an intermediate, like our own.
  await proveChainShown(parts.svid.current());
  const limits = { ...defaultLimits, ...parts.limits };
  const server = createServer({
    ...tlsOptions(parts),
    ALPNProtocols: ['http/1.1'],
    handshakeTimeout: 10_000,
    headersTimeout: 10_000,
    requestTimeout: 10_000,
    // Node looks for overdue requests every 30 s otherwise.
    connectionsCheckingInterval: 2000,
    // Of those with an SVID; strangers have less (connections.ts).
    keepAliveTimeout: 65_000,
    maxHeaderSize: 16_384,
  });
  const chains = rememberChains(server);
  const table = watchConnections(server, {
    limits,
    isKnown: (socket) => parts.isKnown(chains.get(socket) ?? nothing),
    onDrop(reason) {
      parts.onDrop();
      sparseLogOf(parts.log)('ca_overloaded', reason);
    },
  });
  // Every option again: setSecureContext takes what it is not given from its defaults, TLS 1.2 and tickets among them.
  const stopRotation = parts.svid.onChange(() => server.setSecureContext(tlsOptions(parts)));
  const state = { issuing: 0, closing: false };
  server.on('request', (request, response) => {
    const socket = request.socket as TLSSocket;
    const turn = table.began(socket);
    // A body that trickles in makes a connection no less idle.
    if (request.method === 'GET') turn.read();
    else request.once('end', turn.read);
    response.once('close', turn.done);
    const presented = chains.get(socket) ?? nothing;
    void serve({ parts, limits, table, state, presented }, request, response);
  });
  // Out of descriptors, accept() fails one connection at a time; that must not end the CA.
  server.on('error', (error) => parts.log.error({ code: 'accept_failed' }, reasonOf(error)));
  server.on('tlsClientError', (error) => parts.log.debug({ code: 'handshake_failed' }, reasonOf(error)));
  await listen(server, parts.listen);
  return {
    address: { host: parts.listen.host, port: (server.address() as AddressInfo).port },
    close() {
      state.closing = true;
      stopRotation();
      return closeServer(server, limits.drainMs);
    },
  };
}

function tlsOptions({ svid }: ServerParts): ServerOptions {
  const { chainPem, keyPem } = svid.current();
  return {
    key: keyPem,
    cert: chainPem,
    // The verdict on a caller's chain is ours (peer-chain.ts), and Node's own roots must not stand in for it.
    ca: [],
    minVersion: 'TLSv1.3',
    ecdhCurve: 'X25519MLKEM768:X25519:P-256',
    // A resumed session is not checked again: neither its end nor a revocation would be seen.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    requestCert: true,
    rejectUnauthorized: false,
  };
}

/** A socket shows its chain to the first who asks, so it is asked once, here, and kept for the requests to come. */
function rememberChains(server: Server): WeakMap<TLSSocket, Presented> {
  const chains = new WeakMap<TLSSocket, Presented>();
  server.on('secureConnection', (socket: TLSSocket) => chains.set(socket, readPresented(socket)));
  return chains;
}

const nothing: Presented = Object.freeze({ chain: [], complaint: undefined });

interface Turn {
  readonly parts: ServerParts;
  readonly limits: ServerLimits;
  readonly table: ConnectionTable;
  readonly state: { issuing: number; closing: boolean };
  readonly presented: Presented;
}

async function serve(turn: Turn, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { state, parts, table } = turn;
  let answer: ApiAnswer;
  try {
    answer = await answerOf(turn, request);
  } catch (error) {
    answer = refusalOf(parts, error, request);
  }
  await discardBody(request);
  // What was too long even to throw away must not be read as the next request.
  if (state.closing || !request.complete) response.setHeader('connection', 'close');
  const keepAlive = table.keepAliveOf(request.socket as TLSSocket);
  if (keepAlive !== undefined) response.setHeader('keep-alive', `timeout=${keepAlive}`);
  response.writeHead(answer.status ?? 200, {
    'content-type': answer.type ?? 'application/json',
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    ...answer.headers,
    // RFC 9110 section 8.6: with 304 a length would be that of the answer that was not sent.
    ...(answer.status === 304 ? {} : { 'content-length': Buffer.byteLength(answer.body) }),
  });
  response.end(answer.body);
}

async function answerOf({ parts, limits, state, presented }: Turn, request: IncomingMessage): Promise<ApiAnswer> {
  const path = pathOf(request);
  const here = parts.routes.filter((one) => one.path === path);
  const route = here.find((one) => one.method === request.method);
  if (route === undefined) throw noRoute(here, path);
  const asked = {
    presented,
    ifNoneMatch: request.headers['if-none-match'],
    remote: request.socket.remoteAddress ?? '',
  };
  if (route.method === 'GET') return await route.answer({ ...asked, body: undefined });
  // Counted only once it is all there: bodies that trickle in must not keep others from being served.
  const body = await readJsonBody(request);
  if (state.issuing >= limits.issuing)
    throw new SallyportError('ca_overloaded', `${state.issuing} requests are waiting`);
  state.issuing++;
  try {
    return await route.answer({ ...asked, body });
  } finally {
    state.issuing--;
  }
}

/** Without the query, which is nothing to us, and might hold what does not belong in a log. */
function pathOf(request: IncomingMessage): string {
  return (request.url ?? '/').split('?', 1)[0] ?? '/';
}

function noRoute(here: readonly Route[], path: string): SallyportError {
  if (here.length === 0) {
    return new SallyportError('not_found', 'the CA has no such path', { hint: 'GET /v1/openapi.json lists them' });
  }
  return new SallyportError('method_not_allowed', `${path} answers ${here.map((one) => one.method).join(', ')} only`);
}

/** What a caller is told. Faults of ours stay in the log: their sentences name files and reasons. */
function refusalOf(parts: ServerParts, error: unknown, request: IncomingMessage): ApiAnswer {
  const known = error instanceof SallyportError ? error : new SallyportError('internal', reasonOf(error));
  const { code, message, hint, row } = known;
  const path = pathOf(request);
  parts.onRefusal(code);
  const ours = row.status >= 500;
  parts.log[ours ? 'error' : 'warn']({ code, remote: request.socket.remoteAddress, path }, message);
  const told = ours ? { code, message: ourFaults[code] ?? 'the CA failed' } : { code, message, hint };
  return { status: row.status, headers: refusalHeaders(parts, code, path), body: JSON.stringify(told) };
}

function refusalHeaders(parts: ServerParts, code: Code, path: string): Record<string, string> {
  if (codes[code].status === 503) return { 'retry-after': '1' };
  if (code !== 'method_not_allowed') return {};
  // RFC 9110 section 15.5.6: a 405 names the methods that there are.
  const methods = parts.routes.filter((one) => one.path === path).map((one) => one.method);
  return { allow: methods.join(', ') };
}

const ourFaults: Readonly<Partial<Record<Code, string>>> = {
  store_failed: 'the CA cannot write to its store: it issues nothing, and serves the bundle and the deny-list',
  ca_overloaded: 'the CA has more requests than it can sign for',
  issuer_expired: 'the certificate that the CA signs with has ended',
};

async function listen(server: Server, { host, port }: ServerParts['listen']): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, { host, port })));
    server.listen({ host, port, exclusive: true }, resolve);
  });
}

async function closeServer(server: Server, drainMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => server.close(() => resolve()));
  server.closeIdleConnections();
  const timer = setTimeout(() => server.closeAllConnections(), drainMs);
  await closed;
  clearTimeout(timer);
}
