// Open connections, all in one table from before their first check until they are closed. The table is also the clock
// of all idle limits: one coarse tick for everything, no timer per request.

import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { formatPlace } from '../cert-agent/base/address.ts';
import { every } from '../cert-agent/base/background.ts';
import { SallyportError } from '../cert-agent/base/errors.ts';
import type { Live } from '../cert-agent/base/live.ts';
import type { Identity } from '../cert-agent/identity/identity.ts';
import { retirementOf } from '../cert-agent/identity/retirement.ts';
import type { PeerIdentity } from '../cert-agent/identity/verify.ts';
import type { ClientCertificate, ConnectionFacts } from './exchange/connection-facts.ts';
import type { PortRules } from './exchange/exchange.ts';
import { heldBytes, holdSocket, measureSockets } from './exchange/held-bytes.ts';
import type { TlsFacts } from './exchange/upstream.ts';
import type { PeerStats } from './observe/peer-stats.ts';
import type { PolicySet } from './policy/compile.ts';
import type { PeerPolicies } from './policy/decide.ts';
import { normalizeHost } from './policy/host.ts';
import { type Ip, ipOfPlace } from './policy/ip.ts';

/** What a connection carries: requests, a WebSocket, or bytes. */
export type Kind = 'http' | 'websocket' | 'tcp';

/** Holds bytes in our memory for a reader that is slower than the writer. */
export interface Holder {
  readonly bytes: number;
  /** How long they wait at the current pace; milliseconds. */
  readonly waitMs: number;
  /** Ends it at once, to free the memory. */
  drop(error: SallyportError): void;
}

/** What speaks on a connection: a codec or a tunnel. */
export interface Speaker {
  readonly kind: Kind;
  /** Requests in flight; a tunnel counts as one. */
  readonly inFlight: number;
  /** Called at each tick: closes what has been idle or slow for too long, and re-evaluates expired decisions. */
  tick(now: number): void;
  /** No more requests: finishes those in flight, then closes. Closes now if idle. */
  drain(): void;
  /**
   * Its certificates are about to expire: soon accepts nothing new, and finishes what is in flight. The peer is
   * notified.
   */
  retire(): void;
  /** Adds everything on it that holds memory to `found`. Called only when memory is short. */
  findHolders(now: number, found: Holder[]): void;
  /** Re-evaluates each exchange in flight and ends those that are no longer allowed; returns how many. */
  judge(): number;
  /** Ends everything on it as its protocol requires, and the connection: its permission is gone. */
  cut(error: SallyportError): void;
}

/** A listening port, and what it does under the current generation. */
export interface Port {
  readonly key: string;
  readonly rules: Live<PortRules>;
}

/** What a gateway's listener knows about a connection on accept. */
export interface Front {
  readonly serverName?: string | undefined;
  readonly listener?: string | undefined;
  readonly client?: ClientCertificate | undefined;
  /** The two ends that a trusted proxy states (protocol/proxy-protocol.ts). */
  readonly place?: { readonly remote: string; readonly local: string } | undefined;
}

let nextId = 1;

/** One accepted connection. Its acceptor closes it; the table only observes that. */
export class Connection implements ConnectionFacts {
  readonly id = nextId++;
  readonly socket: Socket;
  readonly port: Port;
  readonly remoteAddress: string;
  readonly localAddress: string;
  readonly openedAt = Date.now();
  readonly tls: TlsFacts | undefined;
  readonly serverName: string | undefined;
  /** At a gateway: the listener chosen by the client's server name, and the client's certificate. */
  readonly listener: string | undefined;
  readonly client: ClientCertificate | undefined;
  /** The protocol negotiated in TLS; undefined if it does not tell what is spoken. */
  readonly alpn: 'h2' | 'http/1.1' | undefined;
  speaker: Speaker | undefined = undefined;
  /** Updated by each byte either way; compared with limits at each tick. */
  lastActive = coarseNow();

  peer: PeerIdentity | undefined = undefined;
  /** The peer's certificates, DER, for verifying again when the bundle changes. */
  chain: readonly Buffer[] = [];
  /** The identity generation under which the peer was last verified. */
  verifiedUnder: Identity | undefined = undefined;
  /** `x-forwarded-client-cert` for this peer. */
  clientCert: string | undefined = undefined;
  policies: PeerPolicies | undefined = undefined;
  policiesFrom: PolicySet | undefined = undefined;
  stats: PeerStats | undefined = undefined;
  requests = 0;
  /** When our certificate of its handshake expires; milliseconds since 1970. */
  ownValidUntil = Number.POSITIVE_INFINITY;
  /** The issuer of that certificate, DER; undefined without one. */
  ownIssuer: Buffer | undefined = undefined;
  /** When it accepts nothing new any more; undefined until the peer is known. */
  #retireAt: number | undefined = undefined;
  #remoteIp: Ip | null | undefined = null;
  #localIp: Ip | null | undefined = null;
  /** It was refused, and closes: it is not evaluated again. */
  refused = false;

  constructor(socket: Socket, port: Port, facts?: TlsFacts, front: Front = {}) {
    this.socket = socket;
    this.port = port;
    this.remoteAddress = front.place?.remote ?? formatPlace(socket.remoteAddress, socket.remotePort);
    this.localAddress = front.place?.local ?? formatPlace(socket.localAddress, socket.localPort);
    const tls = socket instanceof TLSSocket ? socket : undefined;
    this.tls = facts;
    const agreed = tls?.alpnProtocol;
    this.alpn = agreed === 'h2' || agreed === 'http/1.1' ? agreed : undefined;
    const named = typeof tls?.servername === 'string' ? tls.servername : front.serverName;
    // An invalid host is kept as received: it is recorded, and matches nothing.
    this.serverName = named === undefined ? undefined : (normalizeHost(named) ?? named);
    this.listener = front.listener;
    this.client = front.client;
  }

  /** The peer's address, for policies that test it; most do not. */
  get remoteIp(): Ip | undefined {
    if (this.#remoteIp === null) this.#remoteIp = ipOfPlace(this.remoteAddress);
    return this.#remoteIp;
  }

  /** The address that the peer dialed. */
  get localIp(): Ip | undefined {
    if (this.#localIp === null) this.#localIp = ipOfPlace(this.localAddress);
    return this.#localIp;
  }

  /** When the first of its certificates expires, milliseconds since 1970. */
  get validUntil(): number {
    return Math.min(
      this.ownValidUntil,
      this.peer?.validUntil ?? Number.POSITIVE_INFINITY,
      this.client?.validUntil ?? Number.POSITIVE_INFINITY,
    );
  }

  /** Whether it is time to retire it: see identity/retirement.ts. `now` in milliseconds since 1970. */
  isDue(now: number): boolean {
    this.#retireAt ??= retirementOf(this.validUntil, this.openedAt);
    return now >= this.#retireAt;
  }

  /** Retires it at the next tick if the certificate that it was opened with is from another issuer (DER). */
  retireUnless(issuer: Buffer): void {
    if (this.ownIssuer !== undefined && !this.ownIssuer.equals(issuer)) this.#retireAt = 0;
  }

  /** Ends it: its permission is gone. */
  cut(error: SallyportError): void {
    this.refused = true;
    if (this.speaker === undefined) this.socket.destroy();
    else this.speaker.cut(error);
  }

  /** As `GET /connections` shows it. */
  describe(): object {
    const { speaker, tls, peer } = this;
    return {
      id: this.id,
      port: this.port.key,
      remote: this.remoteAddress,
      peer: peer?.id.uri ?? null,
      serial: peer?.serial ?? null,
      kind: speaker?.kind ?? null,
      inFlight: speaker?.inFlight ?? 0,
      tlsVersion: tls?.version ?? null,
      tlsCipher: tls?.cipher ?? null,
      tlsGroup: tls?.group ?? null,
      requests: this.requests,
      openedAt: new Date(this.openedAt).toISOString(),
    };
  }
}

/** performance.now() at which the time for each kind is over. */
export type DrainDeadlines = Readonly<Record<Kind, number>>;

/** A connection that did not finish in time. */
export interface CutConnection {
  readonly kind: Kind;
  readonly port: string;
  readonly remote: string;
  readonly peer: string | null;
  readonly inFlight: number;
  readonly ageMs: number;
}

/** What came of a drain, for the log. */
export interface DrainReport {
  /** Connections that closed in time. */
  readonly finished: number;
  readonly cut: readonly CutConnection[];
}

const lastWordsMs = 100;

function kindOf({ speaker, port }: Connection): Kind {
  return speaker?.kind ?? port.rules.current().protocol;
}

function describeCut(connection: Connection): CutConnection {
  const { port, remoteAddress, peer, speaker, openedAt } = connection;
  return {
    kind: kindOf(connection),
    port: port.key,
    remote: remoteAddress,
    peer: peer?.id.uri ?? null,
    inFlight: speaker?.inFlight ?? 0,
    ageMs: Date.now() - openedAt,
  };
}

/** Scanning everything open takes a while, and cut streams take a while to be gone. */
const roomMs = 100;
/** A cut brings the total down to this share of the limit, so that the next request does not cause another cut. */
const roomShare = 7 / 8;
/** Bytes that wait for less than this do not wait for a slow reader. */
const slowMs = 1000;

const tickMs = 500;
let coarse = wholeNow();

/** performance.now() of the last tick: good enough for limits of seconds, and free. */
export function coarseNow(): number {
  return coarse;
}

/** In whole milliseconds: V8 makes an object of each fraction that is kept. */
function wholeNow(): number {
  return Math.floor(performance.now());
}

/** Every open connection of the process. */
export class ConnectionTable {
  readonly #open = new Set<Connection>();
  readonly #arriving = new Set<Socket>();
  readonly #stop: () => void;
  #whenEmpty: (() => void) | undefined = undefined;
  /** performance.now() before which nothing is cut again for memory. */
  #roomAt = 0;

  readonly #expired: (connection: Connection) => void;

  /** `expired` is called for each connection with an expired certificate. */
  constructor(expired: (connection: Connection) => void) {
    this.#expired = expired;
    // Otherwise connections before the first tick would be as old as this module, and idle at once.
    coarse = wholeNow();
    this.#stop = every('connections', tickMs, () => this.#tick());
  }

  /** Includes unfinished handshakes: they hold a descriptor, and any client can open them. */
  get size(): number {
    return this.#open.size + this.#arriving.size;
  }

  /** Adds a TCP connection whose handshake begins. */
  arrive(raw: Socket): void {
    this.#arriving.add(raw);
    raw.once('close', () => this.#arriving.delete(raw));
  }

  /** `raw` is the socket that it arrived on, if that is another one. */
  add(connection: Connection, raw?: Socket): void {
    if (raw !== undefined) this.#arriving.delete(raw);
    this.#open.add(connection);
    holdSocket(connection.socket);
    connection.socket.once('close', () => {
      this.#open.delete(connection);
      if (this.#open.size === 0) this.#whenEmpty?.();
    });
  }

  /** Live: those that close meanwhile are left out. */
  [Symbol.iterator](): IterableIterator<Connection> {
    return this.#open.values();
  }

  /** How many are open on a port. */
  countOf(key: string): number {
    let count = 0;
    for (const connection of this.#open) if (connection.port.key === key) count++;
    return count;
  }

  /**
   * Asks every connection of `direction` to finish, and resolves when none is left. Those still open when the time of
   * their kind is over are cut, and listed in the report.
   */
  async drain(direction: PortRules['direction'], deadlines: DrainDeadlines): Promise<DrainReport> {
    const concerned = (): Connection[] =>
      [...this.#open].filter((one) => one.port.rules.current().direction === direction);
    const all = concerned();
    for (const connection of all) connection.speaker?.drain();
    const cut = new Map<Connection, CutConnection>();
    for (;;) {
      const now = performance.now();
      const open = concerned().filter((one) => !cut.has(one));
      for (const connection of open) {
        if (now < deadlines[kindOf(connection)]) continue;
        cut.set(connection, describeCut(connection));
        connection.cut(new SallyportError('draining', 'the drain time is over'));
      }
      const left = open.filter((one) => !cut.has(one));
      if (left.length === 0) break;
      await this.#nextClose(Math.min(...left.map((one) => deadlines[kindOf(one)])) - now);
    }
    // A moment for final bytes, then nothing stays.
    if (cut.size > 0) await new Promise((resolve) => setTimeout(resolve, lastWordsMs));
    for (const connection of cut.keys()) connection.socket.destroy();
    return { finished: all.length - cut.size, cut: [...cut.values()] };
  }

  /**
   * Resolves at `notBefore` or once no connection of `direction` is open, whichever is later; at `notAfter` in any
   * case.
   */
  async whenUnused(direction: PortRules['direction'], notBefore: number, notAfter: number): Promise<void> {
    for (;;) {
      const now = performance.now();
      const isUsed = [...this.#open].some((one) => one.port.rules.current().direction === direction);
      if (now >= notAfter || (now >= notBefore && !isUsed)) return;
      await this.#nextClose((isUsed ? notAfter : notBefore) - now);
    }
  }

  /**
   * Whether no more than `limit` bytes wait for slow readers. If more do, the streams that have held the most for the
   * longest are cut first, not the newest; a reader that takes its bytes as they come is never cut for memory.
   */
  makeRoom(limit: number): boolean {
    if (heldBytes() <= limit) return true;
    const now = performance.now();
    if (now < this.#roomAt) return false;
    this.#roomAt = now + roomMs;
    measureSockets();
    const found: Holder[] = [];
    for (const { speaker } of this.#open) speaker?.findHolders(now, found);
    const slow = found.filter(({ waitMs }) => waitMs >= slowMs);
    slow.sort((a, b) => b.bytes * b.waitMs - a.bytes * a.waitMs);
    let cut = 0;
    for (const one of slow) {
      if (heldBytes() <= limit * roomShare) break;
      const what = `${one.bytes} bytes waited for a slow reader for ${Math.round(one.waitMs)} ms`;
      one.drop(new SallyportError('memory_full', `${what}, and memory is short (limit heldBytes)`));
      // Bytes in sockets are not counted down as they leave.
      if (++cut % 16 === 0) measureSockets();
    }
    measureSockets();
    return heldBytes() <= limit;
  }

  /**
   * Retires connections with a certificate of ours from another issuer. Its root may be about to leave the bundles of
   * peers, who would then cut what is in flight.
   */
  retireAllBut(issuer: Buffer): void {
    for (const connection of this.#open) connection.retireUnless(issuer);
  }

  /** Destroys all that are left, without a word. Call it after `drain`. */
  close(): void {
    this.#stop();
    for (const raw of this.#arriving) raw.destroy();
    for (const connection of this.#open) connection.socket.destroy();
  }

  #tick(): void {
    coarse = wholeNow();
    const wall = Date.now();
    for (const connection of this.#open) {
      if (connection.isDue(wall)) connection.speaker?.retire();
      if (wall > connection.validUntil) this.#expired(connection);
      connection.speaker?.tick(coarse);
    }
    measureSockets();
  }

  #nextClose(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, Math.max(1, Math.min(ms, 50)));
      this.#whenEmpty = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
