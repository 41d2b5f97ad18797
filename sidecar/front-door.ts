// The first step at a gateway: its front door. A client's server name chooses the listener before anybody answers, the most
// precise one; that listener terminates TLS with its own certificates and, where it is told to, asks for the client's, or it
// passes the connection through unread. Certificates are followed as they change; open connections keep what they have.

import { X509Certificate } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import {
  createSecureContext,
  createServer as createTlsServer,
  type SecureContext,
  type TLSSocket,
  type Server as TlsServer,
} from 'node:tls';
import { reasonOf, SallyportError } from '../cert-agent/base/errors.ts';
import type { Live } from '../cert-agent/base/live.ts';
import { sparseLogOf } from '../cert-agent/base/sparse-log.ts';
import { readPemBlocks } from '../cert-agent/identity/bundle.ts';
import { openCertificate } from '../cert-agent/identity/certificate.ts';
import { weaknessOf } from '../cert-agent/identity/key-strength.ts';
import { checkChainSize } from '../cert-agent/identity/path.ts';
import { readPresented } from '../cert-agent/identity/peer-chain.ts';
import { Connection, type Port } from './connection.ts';
import type { ClientCertificate } from './exchange/connection-facts.ts';
import { accept, admit, afterPreface, type Listener, type ListenerOptions, listen, onHandshakes } from './listener.ts';
import { whenHello } from './protocol/client-hello.ts';
import type { ProxiedPlace } from './protocol/proxy-protocol.ts';
import { frontContextOptions, listenOptions, type TlsSettings, type TlsVersion } from './protocol/tls.ts';
import { patternsFor } from './routing/hosts.ts';

/** One listener of a port that speaks TLS. Plain data. */
export interface FrontListener {
  /** `namespace/gateway/section`. */
  readonly name: string;
  readonly hostname: string | undefined;
  /** It cannot be served: whoever names it is turned away, and comes through no less precise one. */
  readonly closed: boolean;
  /** The connection goes on unread, to where its server name leads. */
  readonly passthrough: boolean;
  /** What is inside is bytes (TLSRoute, TCPRoute), not requests. */
  readonly streams: boolean;
  readonly certificates: readonly { readonly certificate: string; readonly key: string }[];
  /** Whose client certificates are asked for. */
  readonly clients:
    | { readonly authorities: string; readonly mode: 'AllowValidOnly' | 'AllowInsecureFallback' }
    | undefined;
  /** Undefined: that of gateway.yaml. */
  readonly minVersion: TlsVersion | undefined;
}

export interface GatewayListenerOptions extends ListenerOptions {
  /** For streams on the same port. */
  readonly streams: Port;
  readonly front: Live<readonly FrontListener[]>;
  readonly tls: TlsSettings;
}

/** A port that speaks TLS. @throws SallyportError `port_in_use` or `listen_failed`. */
export async function startGatewayListener(options: GatewayListenerOptions): Promise<Listener> {
  const { port, table, tools, log, front } = options;
  const places = new WeakMap<Socket, ProxiedPlace>();
  const whenNamed = afterPreface(options);
  const doors = new Doors(options, places);
  doors.follow(front.current());
  const stop = front.onChange((next) => doors.follow(next));
  const refuse = (raw: Socket, code: string, why: string): void => {
    tools.metrics.countRefusedConnection(code);
    sparseLogOf(log)(code, `${raw.remoteAddress ?? 'a client that is gone'}: ${why}`);
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
            `no listener is for ${serverName ?? 'a client without server name'}`,
          );
        if (door.handshakes !== undefined) {
          // One that cannot be served was to be found before; a stranger who asks for it must not end us.
          const handshakes = door.handshakes.ready(serverName);
          if (handshakes === undefined)
            return refuse(raw, 'certificate_unreadable', `no certificate of ${door.of.name} can be served to them`);
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
  /** Absent where nothing is terminated. */
  readonly handshakes: Handshakes | undefined;
}

/** The listeners of a port by host name, each with the TLS that it terminates. */
class Doors {
  readonly #options: GatewayListenerOptions;
  readonly #places: WeakMap<Socket, ProxiedPlace>;
  readonly #byName = new Map<string, Door>();
  /** What each asked of its clients. */
  readonly #clients = new Map<string, FrontListener['clients']>();
  #byHost: ReadonlyMap<string, Door> = new Map();

  /** `places`: where connections come from of which a proxy has said it. */
  constructor(options: GatewayListenerOptions, places: WeakMap<Socket, ProxiedPlace>) {
    this.#options = options;
    this.#places = places;
  }

  find(serverName: string | undefined): Door | undefined {
    if (serverName === undefined) return this.#byHost.get('*');
    for (const pattern of patternsFor(serverName)) {
      const door = this.#byHost.get(pattern);
      if (door !== undefined) return door;
    }
    return undefined;
  }

  /** New certificates for those that stay; what fails to load keeps what it had. */
  follow(listeners: readonly FrontListener[]): void {
    const { log } = this.#options;
    const byHost = new Map<string, Door>();
    for (const of of listeners) {
      const known = this.#byName.get(of.name);
      let door: Door;
      try {
        // Handshakes that have begun end as they began; who is let in after them is asked of the listener as it is then.
        door = { of, handshakes: of.passthrough || of.closed ? undefined : this.#open(of) };
      } catch (error) {
        log.error(
          { code: 'certificate_unreadable', listener: of.name },
          `the certificate of listener ${of.name} cannot be used: ${reasonOf(error)}`,
        );
        // What it had is good only for what it was: a door that is to ask for certificates now must not stand open as before.
        const fits = known !== undefined && kindOf(known.of) === kindOf(of);
        door = fits ? known : { of: { ...of, closed: true }, handshakes: undefined };
      }
      const before = this.#clients.get(of.name);
      this.#clients.set(of.name, door.of.clients);
      if (this.#byName.has(of.name)) this.#cutUnproved(of.name, before, door.of.clients);
      if (door.of.minVersion === 'TLSv1.3') this.#cutOlder(of.name);
      this.#byName.set(of.name, door);
      byHost.set(of.hostname ?? '*', door);
    }
    this.#byHost = byHost;
  }

  /**
   * Whoever came in while less was asked of clients, or under an authority that is gone, has proved nothing of what is asked
   * now: his connection ends, and he may come again. One that proved itself to authorities that all stay goes on.
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
            `listener ${listener} asks for other client certificates now`,
          ),
        );
    }
  }

  /** A client that came in by TLS 1.2, where it was good enough then, comes again. */
  #cutOlder(listener: string): void {
    const { table, port, streams } = this.#options;
    for (const connection of [...table]) {
      if (connection.listener !== listener || (connection.port !== port && connection.port !== streams)) continue;
      if (connection.tls !== undefined && connection.tls.version !== 'TLSv1.3')
        connection.cut(
          new SallyportError('client_certificate_refused', `listener ${listener} takes TLS 1.3 and nothing older now`),
        );
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
      // A server makes its context without allowPartialTrustChain, which only createSecureContext takes.
      if (of.clients !== undefined) (server as unknown as Shared)._sharedCreds = createSecureContext(context);
      onHandshakes(server, tls, this.#options, (socket, facts, raw) => {
        const client = this.#clientOf(socket, current());
        if (client === null) return;
        const said = { listener: of.name, client, place: raw && this.#places.get(raw) };
        accept(new Connection(socket, of.streams ? streams : port, facts, said), raw, this.#options);
      });
      return server;
    });
  }

  /** The client's certificate where it is good; `null` when the connection was refused for want of one. */
  #clientOf(socket: TLSSocket, { clients, name }: FrontListener): ClientCertificate | undefined | null {
    if (clients === undefined) return undefined;
    const { chain } = readPresented(socket);
    const why = refusalOf(socket, chain);
    if (why === undefined) return describeClient(new X509Certificate(chain[0]!));
    if (clients.mode === 'AllowInsecureFallback') return undefined;
    const { tools, log } = this.#options;
    tools.metrics.countRefusedConnection('client_certificate_refused');
    sparseLogOf(log)(
      'client_certificate_refused',
      `${socket.remoteAddress ?? 'a client that is gone'}: listener ${name} takes verified client certificates only: ${why}`,
    );
    socket.on('error', () => {});
    socket.destroy();
    return null;
  }
}

/** Why a client's certificate is not taken: OpenSSL's verdict, which knows the listener's authorities, or our bounds. */
function refusalOf(socket: TLSSocket, chain: readonly Buffer[]): string | undefined {
  if (chain.length === 0) return 'it has shown none';
  if (!socket.authorized) return String(socket.authorizationError);
  try {
    checkChainSize(chain);
    const weak = chain.map((der) => weaknessOf(openCertificate(der).publicKey)).find((one) => one !== undefined);
    return weak === undefined ? undefined : `a key of its chain is not taken: ${weak}`;
  } catch (error) {
    return reasonOf(error);
  }
}

/** What a listener must not have changed in, for its certificates to go on where new ones cannot be read. */
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

/** A listener may ask for more than gateway.yaml, and never for less. */
function tlsOf({ minVersion }: FrontListener, tls: TlsSettings): TlsSettings {
  return minVersion === 'TLSv1.3' ? { ...tls, minVersion } : tls;
}

/** The context that a tls.Server makes its sockets with. */
interface Shared {
  _sharedCreds: SecureContext;
}

type Pair = FrontListener['certificates'][number];

interface Shown {
  readonly pair: Pair;
  readonly leaf: X509Certificate;
}

/**
 * What shakes hands for one listener. Of several certificates a client sees one that bears the name that it asks for; of those
 * one of each type of key is offered, and OpenSSL takes what the client's signature algorithms and suites allow. Each such choice
 * has a TLS server of its own: Node's SNICallback would leave one certificate of a context. Reading keys is dear, and anybody
 * can begin a handshake: once for each choice.
 */
class Handshakes {
  readonly #of: FrontListener;
  readonly #open: (certificates: readonly Pair[]) => TlsServer;
  readonly #all: readonly Shown[];
  readonly #servers = new Map<string, TlsServer>();

  /** @throws what `open` throws for what most clients will see. */
  constructor(of: FrontListener, open: (certificates: readonly Pair[]) => TlsServer) {
    this.#of = of;
    this.#open = open;
    this.#all = of.certificates.map((pair) => ({ pair, leaf: leafOf(pair) }));
    this.for(undefined);
  }

  /** As `for`; undefined where what it would show cannot be served. */
  ready(serverName: string | undefined): TlsServer | undefined {
    try {
      return this.for(serverName);
    } catch {
      return undefined;
    }
  }

  /** For a client that asks for `serverName`. Where no certificate bears it, or it names none, the first is shown. */
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

/** The first of each type of key. */
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
  // Node quotes a name that holds a comma, so that nobody can smuggle a second one in.
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
