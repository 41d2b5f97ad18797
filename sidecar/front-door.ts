// The first step at a gateway. Before any byte is answered, the client's server name chooses the most precise listener.
// That listener terminates TLS with its own certificates and requests the client's if configured, or it passes the
// connection through unread. Certificates are followed as they change; open connections keep theirs.

import { X509Certificate } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import {
  createSecureContext,
  createServer as createTlsServer,
  type SecureContext,
  type TLSSocket,
  type Server as TlsServer,
} from 'node:tls';
import { isDeepStrictEqual } from 'node:util';
import { every } from '../cert-agent/base/background.ts';
import { reasonOf, SallyportError } from '../cert-agent/base/errors.ts';
import type { Live } from '../cert-agent/base/live.ts';
import { readPemBlocks } from '../cert-agent/identity/bundle.ts';
import { openCertificate } from '../cert-agent/identity/certificate.ts';
import { CrlCheck, type CrlSettings } from '../cert-agent/identity/crl-check.ts';
import { weaknessOf } from '../cert-agent/identity/key-strength.ts';
import { responderOf } from '../cert-agent/identity/ocsp-client.ts';
import { checkChainSize } from '../cert-agent/identity/path.ts';
import { readPresented } from '../cert-agent/identity/peer-chain.ts';
import { fingerprintOf } from '../cert-agent/identity/verify.ts';
import { Connection, type Port } from './connection.ts';
import type { ClientCertificate } from './exchange/connection-facts.ts';
import {
  accept,
  admit,
  afterPreface,
  type Listener,
  type ListenerOptions,
  listen,
  noteRefused,
  onHandshakes,
} from './listener.ts';
import { whenHello } from './protocol/client-hello.ts';
import type { ProxiedPlace } from './protocol/proxy-protocol.ts';
import { Staples } from './protocol/staples.ts';
import { frontContextOptions, listenOptions, type TlsSettings, type TlsVersion } from './protocol/tls.ts';
import { patternsFor } from './routing/hosts.ts';

/** One TLS listener of a port. Plain data. */
export interface FrontListener {
  /** `namespace/gateway/section`. */
  readonly name: string;
  readonly hostname: string | undefined;
  /** It cannot be served: a client that names it is refused, and does not fall back to a less precise one. */
  readonly closed: boolean;
  /** The connection is passed on unread, to where its server name leads. */
  readonly passthrough: boolean;
  /** It carries bytes (TLSRoute, TCPRoute), not requests. */
  readonly streams: boolean;
  readonly certificates: readonly { readonly certificate: string; readonly key: string }[];
  /** The authorities of the client certificates that are requested. */
  readonly clients:
    | {
        readonly authorities: string;
        readonly mode: 'AllowValidOnly' | 'AllowAbsent' | 'AllowInsecureFallback';
        readonly crls?: CrlSettings;
      }
    | undefined;
  /** Undefined: the one of gateway.yaml. */
  readonly minVersion: TlsVersion | undefined;
}

/** `front` is read for each connection, so certificates and listeners change without a new socket. */
export interface GatewayListenerOptions extends ListenerOptions {
  /** For streams on the same port. */
  readonly streams: Port;
  readonly front: Live<readonly FrontListener[]>;
  readonly tls: TlsSettings;
}

/** A TLS port. @throws SallyportError `port_in_use` or `listen_failed`. */
export async function startGatewayListener(options: GatewayListenerOptions): Promise<Listener> {
  const { port, table, front } = options;
  const places = new WeakMap<Socket, ProxiedPlace>();
  const whenNamed = afterPreface(options);
  const doors = new Doors(options, places);
  doors.follow(front.current());
  const unfollow = front.onChange((next) => doors.follow(next));
  const stop = (): void => {
    unfollow();
    doors.close();
  };
  const refuse = (raw: Socket, code: string, why: string): void => {
    noteRefused(options, code, raw, why);
    raw.destroy();
  };
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (raw) => {
    if (!admit(raw, server, options)) return;
    table.arrive(raw);
    if (options.proxies === undefined) return shake(raw);
    whenNamed(raw, 'tls', (place) => {
      if (place !== undefined) places.set(raw, place);
      shake(raw);
    });
  });
  const shake = (raw: Socket): void => {
    const { limits } = port.rules.current();
    whenHello(
      raw,
      limits,
      ({ serverName }) => {
        const door = doors.find(serverName);
        if (door === undefined || door.of.closed)
          return refuse(
            raw,
            'server_name_unknown',
            `no listener matches ${serverName ?? 'a client without a server name'}`,
          );
        if (door.handshakes !== undefined) {
          // An unusable certificate should have been found before; a stranger who asks for it must not crash us.
          const handshakes = door.handshakes.ready(serverName);
          if (handshakes === undefined)
            return refuse(
              raw,
              'certificate_unreadable',
              `listener ${door.of.name} has no certificate that can be served to this client`,
            );
          handshakes.emit('connection', raw);
        } else
          accept(
            new Connection(raw, options.streams, undefined, {
              ...{ serverName, listener: door.of.name, place: places.get(raw) },
            }),
            raw,
            options,
          );
      },
      (why) => refuse(raw, 'tls_handshake_failed', why),
    );
  };
  return listen(server, options, stop);
}

interface Door {
  readonly of: FrontListener;
  /** Absent if nothing is terminated. */
  readonly handshakes: Handshakes | undefined;
}

/** The listeners of a port by host name, each with the TLS that it terminates. */
class Doors {
  readonly #options: GatewayListenerOptions;
  readonly #places: WeakMap<Socket, ProxiedPlace>;
  readonly #byName = new Map<string, Door>();
  /** What each requested of its clients. */
  readonly #clients = new Map<string, FrontListener['clients']>();
  #byHost: ReadonlyMap<string, Door> = new Map();
  /** By listener. */
  readonly #crls = new Map<string, { readonly clients: FrontListener['clients']; readonly check: CrlCheck }>();
  /** What the clients of open connections presented, DER. */
  readonly #chains = new WeakMap<ClientCertificate, readonly Buffer[]>();
  readonly #staples: Staples;
  readonly #stopLooking: () => void;
  #lastLook = Date.now();

  /** `places`: the ends that a proxy stated for a connection. */
  constructor(options: GatewayListenerOptions, places: WeakMap<Socket, ProxiedPlace>) {
    this.#options = options;
    this.#places = places;
    this.#staples = new Staples({ log: options.log });
    this.#stopLooking = every('crl_ends', crlLookMs, () => this.#followTime());
  }

  close(): void {
    this.#staples.close();
    this.#stopLooking();
  }

  /** A CRL that ends takes its issuer's clients with it. */
  #followTime(): void {
    const now = Date.now();
    for (const [listener, { check }] of this.#crls) if (check.hasEnded(this.#lastLook, now)) this.#cutRevoked(listener);
    this.#lastLook = now;
  }

  find(serverName: string | undefined): Door | undefined {
    if (serverName === undefined) return this.#byHost.get('*');
    for (const pattern of patternsFor(serverName)) {
      const door = this.#byHost.get(pattern);
      if (door !== undefined) return door;
    }
    return undefined;
  }

  /** Updates the certificates of the listeners; one whose new certificate cannot be loaded keeps what it had. */
  follow(listeners: readonly FrontListener[]): void {
    const { log } = this.#options;
    const byHost = new Map<string, Door>();
    for (const of of listeners) {
      const known = this.#byName.get(of.name);
      let door: Door;
      try {
        // Handshakes in progress end as they began; their clients are checked against the listener's settings of that
        // moment.
        door = { of, handshakes: of.passthrough || of.closed ? undefined : this.#open(of) };
      } catch (error) {
        log.error(
          { code: 'certificate_unreadable', listener: of.name },
          `the certificate of listener ${of.name} cannot be used: ${reasonOf(error)}`,
        );
        // The old context fits only the old settings: a listener that now requests certificates must not stay open
        // without.
        const fits = known !== undefined && kindOf(known.of) === kindOf(of);
        door = fits ? known : { of: { ...of, closed: true }, handshakes: undefined };
      }
      // New CRLs count even where the new certificate cannot be loaded.
      const { clients } = door.of;
      this.#followCrls(of.name, clients && { ...clients, ...(of.clients ?? {}), authorities: clients.authorities });
      const before = this.#clients.get(of.name);
      this.#clients.set(of.name, door.of.clients);
      if (this.#byName.has(of.name)) this.#cutUnproved(of.name, before, door.of.clients);
      if (door.of.minVersion === 'TLSv1.3') this.#cutOlder(of.name);
      this.#byName.set(of.name, door);
      byHost.set(of.hostname ?? '*', door);
    }
    this.#byHost = byHost;
    const served = [...byHost.values()].flatMap(({ of, handshakes }) =>
      handshakes === undefined ? [] : of.certificates,
    );
    this.#staples.follow(served.map(({ certificate }) => readPemBlocks(certificate, 'a certificate')));
    for (const name of this.#crls.keys()) if (!listeners.some((one) => one.name === name)) this.#crls.delete(name);
  }

  /** Parses the CRLs of a listener if they are new, and ends the connections that they refuse. */
  #followCrls(listener: string, clients: FrontListener['clients']): void {
    const known = this.#crls.get(listener);
    if (clients?.crls === undefined) {
      this.#crls.delete(listener);
      return;
    }
    if (isDeepStrictEqual(known?.clients, clients)) return;
    const check = new CrlCheck(clients.crls, readPemBlocks(clients.authorities, `the authorities of ${listener}`));
    this.#crls.set(listener, { clients, check });
    for (const { code, message, hint } of check.problems)
      this.#options.log.error({ code, listener, hint }, `${message}: the clients of its CA are refused`);
    this.#cutRevoked(listener);
  }

  #cutRevoked(listener: string): void {
    const { table, port, streams } = this.#options;
    for (const connection of [...table]) {
      const { client } = connection;
      if (connection.listener !== listener || (connection.port !== port && connection.port !== streams)) continue;
      const refusal = client === undefined ? undefined : this.#revocationOf(listener, this.#chains.get(client) ?? []);
      if (refusal !== undefined) connection.cut(refusal);
    }
  }

  /** Why a verified chain is refused all the same. */
  #revocationOf(listener: string, chain: readonly Buffer[]): SallyportError | undefined {
    return this.#crls.get(listener)?.check.refusalOf(chain, Date.now());
  }

  /**
   * A client that came in while less was required, or under an authority that is gone, has not proved what is required
   * now: its connection ends, and it may reconnect. One that proved itself to authorities that all stay continues.
   */
  #cutUnproved(listener: string, before: FrontListener['clients'], now: FrontListener['clients']): void {
    const mustShow = now?.mode === 'AllowValidOnly';
    const withdrawn = before !== undefined && !holdsAll(now?.authorities, before.authorities);
    if (!mustShow && !withdrawn) return;
    const { table, port, streams } = this.#options;
    for (const connection of [...table]) {
      const { client } = connection;
      if (connection.listener !== listener || (connection.port !== port && connection.port !== streams)) continue;
      if (client === undefined ? mustShow : withdrawn)
        connection.cut(
          new SallyportError(
            'client_certificate_refused',
            `listener ${listener} now requires other client certificates`,
          ),
        );
    }
  }

  /** A client with TLS 1.2, which was sufficient then, must reconnect. */
  #cutOlder(listener: string): void {
    const { table, port, streams } = this.#options;
    for (const connection of [...table]) {
      if (connection.listener !== listener || (connection.port !== port && connection.port !== streams)) continue;
      if (connection.tls !== undefined && connection.tls.version !== 'TLSv1.3')
        connection.cut(new SallyportError('client_certificate_refused', `listener ${listener} now requires TLS 1.3`));
    }
  }

  #open(of: FrontListener): Handshakes {
    const { tls, port, streams } = this.#options;
    const { limits } = port.rules.current();
    const current = (): FrontListener => this.#byName.get(of.name)?.of ?? of;
    return new Handshakes(of, (certificates) => {
      const context = frontContextOptions({ certificates, authorities: of.clients?.authorities }, tlsOf(of, tls));
      const server = createTlsServer({
        ...listenOptions(limits.handshakeMs),
        ...(of.streams ? {} : { ALPNProtocols: ['h2', 'http/1.1', 'http/1.0'] }),
        ...context,
        requestCert: of.clients !== undefined,
      });
      // A server creates its context without allowPartialTrustChain, which only createSecureContext accepts.
      if (of.clients !== undefined) (server as unknown as Shared)._sharedCreds = createSecureContext(context);
      this.#stapleFor(server, certificates);
      onHandshakes(server, tls, this.#options, (socket, facts, raw) => {
        const client = this.#clientOf(socket, current());
        if (client === null) return;
        const front = { listener: of.name, client, place: raw && this.#places.get(raw) };
        accept(new Connection(socket, of.streams ? streams : port, facts, front), raw, this.#options);
      });
      return server;
    });
  }

  /** Of several key types, Node does not tell which one a client gets: then nothing is stapled. */
  #stapleFor(server: TlsServer, certificates: readonly Pair[]): void {
    const [pair, ...others] = certificates;
    if (pair === undefined || others.length > 0) return;
    const { raw } = leafOf(pair);
    // A listener for the event delays each handshake by a turn.
    if (responderOf(raw) === undefined) return;
    const fingerprint = fingerprintOf(raw);
    server.on('OCSPRequest', (_certificate, _issuer, done) => done(null, this.#staples.of(fingerprint) ?? null));
  }

  /** The client's certificate if valid; `null` if the connection was refused for lack of one. */
  #clientOf(socket: TLSSocket, { clients, name }: FrontListener): ClientCertificate | undefined | null {
    if (clients === undefined) return undefined;
    const { chain } = readPresented(socket);
    const why = refusalOf(socket, chain) ?? this.#revocationOf(name, chain);
    if (why === undefined) {
      const client = describeClient(new X509Certificate(chain[0]!));
      this.#chains.set(client, chain);
      return client;
    }
    if (clients.mode === 'AllowInsecureFallback' || (clients.mode === 'AllowAbsent' && chain.length === 0))
      return undefined;
    const { code, message } = typeof why === 'string' ? { code: refused, message: why } : why;
    noteRefused(this.#options, code, socket, `listener ${name} requires a verified client certificate: ${message}`);
    socket.on('error', () => {});
    socket.destroy();
    return null;
  }
}

const refused = 'client_certificate_refused';

/** How often it is looked whether a CRL has ended. */
const crlLookMs = 1000;

/** Why a client's certificate is refused: OpenSSL's verdict, with the listener's authorities, or our bounds. */
function refusalOf(socket: TLSSocket, chain: readonly Buffer[]): string | undefined {
  if (chain.length === 0) return 'none was presented';
  if (!socket.authorized) return String(socket.authorizationError);
  try {
    checkChainSize(chain);
    const weak = chain.map((der) => weaknessOf(openCertificate(der).publicKey)).find((one) => one !== undefined);
    return weak === undefined ? undefined : `a key of its chain is refused: ${weak}`;
  } catch (error) {
    return reasonOf(error);
  }
}

/** The settings that must be unchanged for a listener to keep its old certificates when new ones cannot be read. */
function kindOf({ closed, passthrough, streams, clients }: FrontListener): string {
  return `${closed} ${passthrough} ${streams} ${clients !== undefined}`;
}

/** Is every authority of `before` among those of `now`? */
function holdsAll(now: string | undefined, before: string): boolean {
  const kept = new Set(now === undefined ? [] : blocksOf(now));
  return blocksOf(before).every((one) => kept.has(one));
}

function blocksOf(authorities: string): string[] {
  return readPemBlocks(authorities, 'authorities').map((der) => der.toString('base64'));
}

/** A listener may require more than gateway.yaml, never less. */
function tlsOf({ minVersion }: FrontListener, tls: TlsSettings): TlsSettings {
  return minVersion === 'TLSv1.3' ? { ...tls, minVersion } : tls;
}

/** The context from which a tls.Server creates its sockets. */
interface Shared {
  _sharedCreds: SecureContext;
}

type Pair = FrontListener['certificates'][number];

interface Shown {
  readonly pair: Pair;
  readonly leaf: X509Certificate;
}

/**
 * The handshakes of one listener. Of several certificates a client gets one that has the requested name; of those one
 * of each key type is offered, and OpenSSL chooses by the client's signature algorithms and suites. Each such set has a
 * TLS server of its own, since Node's SNICallback would keep only one certificate of a context. Reading keys is
 * expensive, and any client can begin a handshake: so keys are read once for each set.
 */
class Handshakes {
  readonly #of: FrontListener;
  readonly #open: (certificates: readonly Pair[]) => TlsServer;
  readonly #all: readonly Shown[];
  readonly #servers = new Map<string, TlsServer>();

  /** @throws what `open` throws for the certificates that most clients will get. */
  constructor(of: FrontListener, open: (certificates: readonly Pair[]) => TlsServer) {
    this.#of = of;
    this.#open = open;
    this.#all = of.certificates.map((pair) => ({ pair, leaf: leafOf(pair) }));
    this.for(undefined);
  }

  /** As `for`; undefined if its certificates cannot be served. */
  ready(serverName: string | undefined): TlsServer | undefined {
    try {
      return this.for(serverName);
    } catch {
      return undefined;
    }
  }

  /**
   * For a client that requests `serverName`. If no certificate has that name, or it names none, the first one is used.
   */
  for(serverName: string | undefined): TlsServer {
    const [first] = this.#all as [Shown];
    const name = serverName ?? this.#of.hostname ?? nameOf(first.leaf);
    const bearing = oneOfEach(this.#all.filter(({ leaf }) => name !== undefined && leaf.checkHost(name) !== undefined));
    const shown = bearing.length === 0 ? [first] : bearing;
    const key = shown.map((one) => this.#all.indexOf(one)).join(' ');
    const known = this.#servers.get(key) ?? this.#open(shown.map(({ pair }) => pair));
    this.#servers.set(key, known);
    return known;
  }
}

function leafOf({ certificate }: Pair): X509Certificate {
  return new X509Certificate(readPemBlocks(certificate, 'a certificate')[0]!);
}

function nameOf(leaf: X509Certificate): string | undefined {
  return /\bDNS:([^,\s"]+)/.exec(leaf.subjectAltName ?? '')?.[1];
}

/** The first of each key type. */
function oneOfEach(all: readonly Shown[]): Shown[] {
  const types = new Set<string | undefined>();
  return all.filter(({ leaf }) => {
    const type = leaf.publicKey.asymmetricKeyType;
    if (types.has(type)) return false;
    types.add(type);
    return true;
  });
}

function describeClient(leaf: X509Certificate): ClientCertificate {
  // Node quotes a name that contains a comma, so that no second name can be smuggled in.
  const names = leaf.subjectAltName?.match(/(?:[^,"]|"(?:[^"\\]|\\.)*")+/g)?.map((one) => one.trim()) ?? [];
  const uris = names.flatMap((one) => (/^URI:[^"]+$/.test(one) ? [one.slice(4)] : []));
  const subject = leaf.subject?.split('\n').reverse().join(',') ?? '';
  const uri = uris.length === 1 ? uris[0] : undefined;
  return {
    name: uri ?? subject,
    uri,
    subject,
    dns: names.flatMap((one) => (/^DNS:[^"]+$/.test(one) ? [one.slice(4)] : [])),
    fingerprint: leaf.fingerprint256.replaceAll(':', '').toLowerCase(),
    serial: leaf.serialNumber.toLowerCase(),
    validUntil: leaf.validToDate.getTime(),
  };
}
