// The first step: a listening port. Inbound it requires mutual TLS and follows every rotation of our SVID; outbound it
// is plain and on loopback. Each connection is in the table before its first check.

import { createServer, type Server, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { createServer as createTlsServer, type TLSSocket, type Server as TlsServer } from 'node:tls';
import { listenError } from '../cert-agent/base/admin.ts';
import { asSallyportError, reasonOf, type SallyportError } from '../cert-agent/base/errors.ts';
import type { Live } from '../cert-agent/base/live.ts';
import type { Log } from '../cert-agent/base/log.ts';
import { sparseLogOf } from '../cert-agent/base/sparse-log.ts';
import type { Identity } from '../cert-agent/identity/identity.ts';
import { proveChainShown } from '../cert-agent/identity/own-handshake.ts';
import type { Svid } from '../cert-agent/identity/svid.ts';
import { Connection, type ConnectionTable, type Port } from './connection.ts';
import type { TlsFacts } from './exchange/upstream.ts';
import { compileIpBlocks, parseIp } from './policy/ip.ts';
import { isOfMesh, meshAlpn } from './policy/mtls.ts';
import { type ClientHello, whenHello } from './protocol/client-hello.ts';
import { type ProxiedPlace, whenProxied } from './protocol/proxy-protocol.ts';
import { runsOn } from './protocol/reset.ts';
import { whenSniffed } from './protocol/sniff.ts';
import { acceptedFacts, agreeInMesh, contextOptions, listenOptions, type TlsSettings } from './protocol/tls.ts';
import { type ProxyTools, serveHttp, serveTcp } from './proxy.ts';

/** Of one port. The caller closes `table`, and calls `close` of the listener. */
export interface ListenerOptions {
  readonly port: Port;
  /** 0 lets the system choose. */
  readonly number: number;
  /** Undefined binds every address of both families. */
  readonly bind: string | undefined;
  /** Several workers listen on the same port, and the kernel distributes connections. */
  readonly shared: boolean;
  /** At a gateway: addresses and blocks of the proxies that must send the PROXY protocol. */
  readonly proxies?: readonly string[] | undefined;
  readonly table: ConnectionTable;
  readonly tools: ProxyTools;
  readonly log: Log;
}

/** TLS needs an SVID: `identity` is followed, and open connections keep theirs. */
export interface InboundOptions extends ListenerOptions {
  readonly identity: Live<Identity | undefined>;
  readonly tls: TlsSettings;
  /** The same port for TLS that is the app's own, passed as bytes. */
  readonly streams: Port;
}

/** A bound port. */
export interface Listener {
  /** The bound port number. */
  readonly number: number;
  /** Stops accepting; open connections continue. */
  close(): void;
}

/**
 * A plain port: for the app, or a gateway's plaintext port.
 * @throws SallyportError `port_in_use` or `listen_failed`.
 */
export async function startPlainListener(options: ListenerOptions): Promise<Listener> {
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    if (!admit(socket, server, options)) return;
    const { port, proxies } = options;
    if (proxies === undefined) return accept(new Connection(socket, port), undefined, options);
    options.table.arrive(socket);
    whenNamed(socket, port.rules.current().protocol, (place) =>
      accept(new Connection(socket, port, undefined, { place }), socket, options),
    );
  });
  const whenNamed = afterPreface(options);
  return listen(server, options, () => {});
}

/** Waits for a connection's PROXY preface, if the port has proxies. */
export function afterPreface({ proxies = [], port, tools, log }: ListenerOptions) {
  const trusts = compileIpBlocks(proxies);
  return function whenNamed(
    raw: Socket,
    speaks: 'tls' | 'http' | 'tcp',
    take: (place: ProxiedPlace | undefined) => void,
  ): void {
    whenProxied(raw, { trusts, limits: port.rules.current().limits, speaks }, take, (code, why) => {
      noteRefused({ port, tools, log }, code, raw, why);
    });
  };
}

/**
 * A port for peers: mutual TLS, plaintext, or whichever the first bytes show, by the port's current mode. If both are
 * accepted, TLS that offers no protocol of the mesh is the app's own: it is passed on unread, as bytes without an
 * identity.
 * @throws SallyportError `port_in_use`, `listen_failed` or `node_unsuitable`.
 */
export async function startInboundListener(options: InboundOptions): Promise<Listener> {
  const { port, table, tools } = options;
  const secure = await followIdentity(options);
  const takeTls = (raw: Socket): void => {
    const handshakes = secure.current();
    if (handshakes !== undefined) {
      handshakes.emit('connection', raw);
      return;
    }
    tools.metrics.countRefusedConnection('not_ready');
    raw.destroy();
  };
  const takePlain = (raw: Socket): void => accept(new Connection(raw, port), raw, options);
  const passOn = (raw: Socket, { serverName }: ClientHello): void => {
    sayPassedOn(options);
    accept(new Connection(raw, options.streams, undefined, { serverName }), raw, options);
  };
  const takeEitherTls = (raw: Socket): void =>
    whenHello(
      raw,
      port.rules.current().limits,
      (hello) => (isOfMesh(hello.alpn) ? takeTls(raw) : passOn(raw, hello)),
      (why) => refuseHandshake(options, raw, why),
    );
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (raw) => {
    if (!admit(raw, server, options)) return;
    table.arrive(raw);
    const rules = port.rules.current();
    if (rules.mtls?.mode === 'DISABLE') takePlain(raw);
    else if (rules.mtls?.mode === 'PERMISSIVE') whenSniffed(raw, rules, takeEitherTls, takePlain);
    else takeTls(raw);
  });
  return listen(server, options, () => secure.stop());
}

/** The TLS half of an inbound port: starts with our first SVID and follows each new one; it binds no port itself. */
async function followIdentity(options: InboundOptions): Promise<{ current(): TlsServer | undefined; stop(): void }> {
  const { identity, tls, log } = options;
  let server: TlsServer | undefined;
  let shown: Svid | undefined;
  const contextOf = (ours: Identity): object => {
    const context = contextOptions(ours.svid, tls);
    shown = ours.svid;
    return context;
  };
  const follow = async (ours: Identity | undefined): Promise<void> => {
    if (ours === undefined) return;
    // All options again: setSecureContext resets those it is not given. Open connections keep theirs.
    if (server !== undefined) return void server.setSecureContext(contextOf(ours));
    await proveChainShown(ours.svid);
    server ??= startHandshakes(options, contextOf(identity.current() ?? ours), () => shown);
  };
  await follow(identity.current());
  const stop = identity.onChange((ours) => {
    follow(ours).catch((error: unknown) => {
      const { code, message } = asSallyportError(error, 'listen_failed', 'TLS cannot be served');
      log.error({ code }, message);
    });
  });
  return { current: () => server, stop };
}

/** `shown` gives the SVID of the current context. */
function startHandshakes(options: InboundOptions, context: object, shown: () => Svid | undefined): TlsServer {
  const { tls, port } = options;
  const { protocol, limits } = port.rules.current();
  const server = createTlsServer({
    ...listenOptions(limits.handshakeMs),
    ...(protocol === 'http'
      ? { ALPNCallback: ({ protocols }: { readonly protocols: string[] }) => agreeInMesh(protocols) }
      : {}),
    ...context,
  });
  // A handshake goes on under the context of its beginning, and the SVID may be renewed before it ends.
  const shownTo = new WeakMap<Socket, Svid>();
  server.prependListener('connection', (raw: Socket) => {
    const svid = shown();
    if (svid !== undefined) shownTo.set(raw, svid);
  });
  onHandshakes(server, tls, options, (socket, facts, raw) => {
    const connection = new Connection(socket, port, facts);
    const svid = raw === undefined ? undefined : shownTo.get(raw);
    connection.ownValidUntil = svid?.notAfter ?? 0;
    connection.ownIssuer = svid?.chain[1];
    accept(connection, raw, options);
    const issuer = options.identity.current()?.svid.chain[1];
    if (issuer !== undefined) connection.retireUnless(issuer);
  });
  return server;
}

/** Calls `accepted` for each completed handshake, with its TCP connection; a failed one is counted and logged. */
export function onHandshakes(
  server: TlsServer,
  tls: TlsSettings,
  options: Pick<ListenerOptions, 'port' | 'tools' | 'log'>,
  accepted: (socket: TLSSocket, facts: TlsFacts, raw: Socket | undefined) => void,
): void {
  const arriving = new Map<string, Socket>();
  // Before Node's own listener, which creates the TLS socket from what it finds here. An unfinished handshake has
  // nothing to send after the peer's end, and would wait for the handshake timeout.
  server.prependListener('connection', (raw: Socket) => {
    raw.allowHalfOpen = false;
    const key = placeOf(raw);
    arriving.set(key, raw);
    raw.once('close', () => arriving.get(key) === raw && arriving.delete(key));
  });
  server.on('secureConnection', (socket) => {
    const raw = arriving.get(placeOf(socket));
    if (raw !== undefined) runsOn(socket, raw);
    // From here on each direction ends separately, as a TCP stream needs it.
    socket.allowHalfOpen = true;
    const facts = acceptedFacts(socket, tls);
    options.tools.metrics.countHandshake('accepted', facts);
    accepted(socket, facts, raw);
  });
  server.on('tlsClientError', (error, socket) => {
    refuseHandshake(options, socket, reasonOf(error));
    socket.destroy();
  });
}

/**
 * A connection that is refused before any request: it is counted, logged at most so often, and in the list of refusals.
 * `said` is the log's line, if that is more than the peer's address and why.
 */
export function noteRefused(
  { port, tools, log }: Pick<ListenerOptions, 'port' | 'tools' | 'log'>,
  code: string,
  { remoteAddress = 'a disconnected client' }: Pick<Socket, 'remoteAddress'>,
  why: string,
  said = `${remoteAddress}: ${why}`,
): void {
  tools.metrics.countRefusedConnection(code);
  sparseLogOf(log)(code, said);
  // An IPv4 address at a port for both is mapped to IPv6.
  const from = parseIp(remoteAddress)?.text ?? remoteAddress;
  tools.denials.connections.note({ code, reason: why, from, what: `connection to ${port.key}` });
}

function refuseHandshake(options: Pick<ListenerOptions, 'port' | 'tools' | 'log'>, raw: Socket, why: string): void {
  const { remoteAddress = 'a disconnected peer' } = raw;
  noteRefused(options, 'tls_handshake_failed', raw, why, `TLS handshake with ${remoteAddress} failed: ${why}`);
}

const saidPassedOn = new WeakSet<Port>();

/** Logged once per HTTP port: the cause is more often a peer without a mesh ALPN than an app with TLS of its own. */
function sayPassedOn({ port, log }: InboundOptions): void {
  if (port.rules.current().protocol !== 'http' || saidPassedOn.has(port)) return;
  saidPassedOn.add(port);
  log.warn(
    {
      code: 'tls_passed_on',
      hint: `have mesh peers offer '${meshAlpn}' in ALPN, or make the port STRICT`,
    },
    `${port.key} is PERMISSIVE: TLS that offers no protocol of the mesh is passed on to the app unread, without an identity`,
  );
}

/** A key for a connection, the same for a TLS socket and for the TCP socket under it. */
function placeOf(socket: Socket): string {
  return `${socket.remoteAddress}|${socket.remotePort}|${socket.localAddress}`;
}

/**
 * Whether there is room for one more; a refused connection is closed without a byte. Out of descriptors the operating
 * system would accept and drop connections silently, so we stop a little earlier, log it, and pause accepting.
 */
export function admit(raw: Socket, server: Server | TlsServer, options: ListenerOptions): boolean {
  const { port, table, tools, log } = options;
  const { connections, descriptors } = port.rules.current().limits;
  const nearEnd = descriptorOf(raw) >= descriptors - descriptorReserve;
  if (table.size < connections && !nearEnd && tools.log.trouble === undefined) return true;
  raw.destroy();
  if (tools.log.trouble !== undefined) {
    // An attacker must not go unseen by filling the disk.
    tools.metrics.countRefusedConnection('access_log_failed');
    sparseLogOf(log)(
      'access_log_failed',
      `connection refused: the access log cannot be written (${tools.log.trouble})`,
    );
    return false;
  }
  tools.metrics.countRefusedConnection(nearEnd ? 'descriptors_exhausted' : 'overloaded');
  if (!nearEnd) sparseLogOf(log)('overloaded', `connection refused: ${table.size} are open (limit connections)`);
  // The rest of a burst is refused one by one, with a single pause.
  else if (server.listening) pauseAccepting(server, options, `nearly all of ${descriptors} descriptors are in use`);
  return false;
}

/** Reserved for files that must still be read and written, and for upstreams of open connections. */
const descriptorReserve = 24;

/** The kernel assigns the lowest free number, so a new connection's number shows how many are in use. */
function descriptorOf(raw: Socket): number {
  return (raw as unknown as { readonly _handle?: { readonly fd?: number } })._handle?.fd ?? -1;
}

/** Adds a connection to the table and serves it; inbound its peer is verified first. */
export function accept(connection: Connection, raw: Socket | undefined, options: ListenerOptions): void {
  const { table, tools } = options;
  // On a gateway port for requests and streams, the one that the connection is for.
  const { port } = connection;
  const rules = port.rules.current();
  table.add(connection, raw);
  if (rules.direction === 'inbound') {
    try {
      tools.checkPeer(connection);
    } catch (error) {
      refusePeer(connection, asSallyportError(error, 'internal', 'the peer could not be verified'), options);
      return;
    }
    // A connection that is refused anyway is no evidence of what STRICT would refuse.
    tools.security.note(port.key, connection.socket.remoteAddress ?? 'unknown', connection.tls !== undefined);
  }
  if (rules.protocol === 'http') serveHttp(connection, tools);
  else void serveTcp(connection, tools);
}

/** A peer without a valid identity gets no byte; the reason is for our log. */
function refusePeer(connection: Connection, error: SallyportError, options: ListenerOptions): void {
  const { code, message } = error;
  noteRefused(options, code, connection.socket, message, `peer ${connection.remoteAddress} refused: ${message}`);
  connection.socket.on('error', () => {});
  connection.socket.destroy();
}

const acceptPauseMs = 1000;
const closedForGood = new WeakSet<Server | TlsServer>();

/** Accepting the next connection would fail as well, so accepting pauses for a moment. Open ones continue. */
function pauseAccepting(server: Server | TlsServer, { number, bind, shared, log }: ListenerOptions, why: string): void {
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : number;
  log.error({ code: 'accept_failed' }, `port ${port} pauses accepting: ${why}`);
  server.close();
  const again = (): void => {
    if (!closedForGood.has(server))
      server.listen({ host: bind ?? anyAddress(), port, ipv6Only: false, reusePort: shared });
  };
  setTimeout(again, acceptPauseMs).unref();
}

/** Binds a server. @throws SallyportError `port_in_use` or `listen_failed`. */
export function listen(server: Server | TlsServer, options: ListenerOptions, onClose: () => void): Promise<Listener> {
  const { number, port, log, tools } = options;
  const host = options.bind ?? anyAddress();
  return new Promise((resolve, reject) => {
    const refuse = (error: Error): void => {
      onClose();
      reject(listenError(error, { host, port: number }));
    };
    server.once('error', refuse);
    server.listen({ host, port: number, ipv6Only: false, reusePort: options.shared }, () => {
      server.off('error', refuse);
      const bound = server.address();
      const actual = typeof bound === 'object' && bound !== null ? bound.port : number;
      server.on('error', (error) => {
        tools.metrics.countRefusedConnection('accept_failed');
        pauseAccepting(server, { ...options, number: actual }, reasonOf(error));
      });
      log.info(
        { code: 'listening', port: actual, direction: port.rules.current().direction, mtls: port.rules.current().mtls },
        `${port.key} listens on ${host}:${actual}`,
      );
      resolve({
        number: actual,
        close() {
          closedForGood.add(server);
          onClose();
          server.close();
        },
      });
    });
  });
}

let any: string | undefined;

/**
 * `::` accepts both families if the machine has IPv6; a kernel without it refuses to bind it. Checked once: it cannot
 * be checked without free descriptors.
 */
export function anyAddress(): string {
  if (any === undefined) {
    const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
    any = addresses.some((one) => one.family === 'IPv6') ? '::' : '0.0.0.0';
  }
  return any;
}
