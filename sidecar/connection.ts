// Open connections, each in one table from before its first check until it is closed. The table is also the clock of
// all idle limits: one coarse tick for everything, no timer per request.

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
import type { PeerStats } from './observe/metrics.ts';
import type { PolicySet } from './policy/compile.ts';
import type { PeerPolicies } from './policy/decide.ts';
import { normalizeHost } from './policy/host.ts';
import { type Ip, ipOfPlace } from './policy/ip.ts';

/** What a connection carries: requests, a WebSocket, or bytes. */
export type Kind = 'http' | 'websocket' | 'tcp';

/** Something of which bytes wait in our memory for a reader that is slower than their writer. */
export interface Holder {
  readonly bytes: number;
  /** How long they wait, at the pace at which they go; milliseconds. */
  readonly waitMs: number;
  /** Ends it at once, to have the memory back. */
  drop(error: SallyportError): void;
}

/** What speaks on a connection: a codec or a tunnel. */
export interface Speaker {
  readonly kind: Kind;
  /** Requests in flight; a tunnel is one. */
  readonly inFlight: number;
  /** Called at each tick: closes what has been idle or slow for too long, and asks again where a decision has run out. */
  tick(now: number): void;
  /** No more requests: finish what is in flight, then close. Idle ones close now. */
  drain(): void;
  /** The certificates behind it are about to end: nothing new soon, what is in flight finishes. The peer is told politely. */
  retire(): void;
  /** Adds to `found` whatever on it holds memory. Asked only when that is short. */
  findHolders(now: number, found: Holder[]): void;
  /** Asks again whether each exchange in flight may go on, and ends those that may not; how many those were. */
  judge(): number;
  /** Ends all of it in the protocol's own manner, and the connection: what allowed it no longer does. */
  cut(error: SallyportError): void;
}

/** A port that listens, with what it does under the current generation. */
export interface Port {
  readonly key: string;
  readonly rules: Live<PortRules>;
}

/** What a gateway's listener knows of a connection when it is accepted. */
export interface Front {
  readonly serverName?: string | undefined;
  readonly listener?: string | undefined;
  readonly client?: ClientCertificate | undefined;
  /** Where a proxy that is trusted says that it comes from, and where it came to (protocol/proxy-protocol.ts). */
  readonly place?: { readonly remote: string; readonly local: string } | undefined;
}

let nextId = 1;

/** One accepted connection. Whoever accepted it closes it; the table only sees it go. */
export class Connection implements ConnectionFacts {
  readonly id = nextId++;
  readonly socket: Socket;
  readonly port: Port;
  readonly remoteAddress: string;
  readonly localAddress: string;
  readonly openedAt = Date.now();
  readonly tls: TlsFacts | undefined;
  readonly serverName: string | undefined;
  /** At a gateway: the listener that the client's server name has chosen, and the certificate that it has shown. */
  readonly listener: string | undefined;
  readonly client: ClientCertificate | undefined;
  /** What TLS has agreed on; undefined where that says nothing of what is spoken. */
  readonly alpn: 'h2' | 'http/1.1' | undefined;
  speaker: Speaker | undefined = undefined;
  /** Moved by each byte either way; compared with limits at each tick. */
  lastActive = coarseNow();

  peer: PeerIdentity | undefined = undefined;
  /** The peer's certificates, DER, for asking again when the bundle changes. */
  chain: readonly Buffer[] = [];
  /** The identity generation under which the peer was last found good. */
  verifiedUnder: Identity | undefined = undefined;
  /** `x-forwarded-client-cert` for this peer. */
  clientCert: string | undefined = undefined;
  policies: PeerPolicies | undefined = undefined;
  policiesFrom: PolicySet | undefined = undefined;
  stats: PeerStats | undefined = undefined;
  requests = 0;
  /** When our certificate ends that its handshake was made with; milliseconds since 1970. */
  ownValidUntil = Number.POSITIVE_INFINITY;
  /** When it takes nothing new any more; undefined until the peer is known. */
  #retireAt: number | undefined = undefined;
  #remoteIp: Ip | null | undefined = null;
  #localIp: Ip | null | undefined = null;
  /** It was refused, and closes: nobody asks about it again. */
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
    // What is no host is kept as it was said: it is on record, and matches nothing.
    this.serverName = named === undefined ? undefined : (normalizeHost(named) ?? named);
    this.listener = front.listener;
    this.client = front.client;
  }

  /** The peer's address, for policies that ask; most do not. */
  get remoteIp(): Ip | undefined {
    if (this.#remoteIp === null) this.#remoteIp = ipOfPlace(this.remoteAddress);
    return this.#remoteIp;
  }

  /** The address that the peer dialed. */
  get localIp(): Ip | undefined {
    if (this.#localIp === null) this.#localIp = ipOfPlace(this.localAddress);
    return this.#localIp;
  }

  /** The first end of the certificates that it rests on, milliseconds since 1970. */
  get validUntil(): number {
    return Math.min(
      this.ownValidUntil,
      this.peer?.validUntil ?? Number.POSITIVE_INFINITY,
      this.client?.validUntil ?? Number.POSITIVE_INFINITY,
    );
  }

  /** Whether it is time to end it politely: see identity/retirement.ts. `now` in milliseconds since 1970. */
  isDue(now: number): boolean {
    this.#retireAt ??= retirementOf(this.validUntil, this.openedAt);
    return now >= this.#retireAt;
  }

  /** Ends it: what allowed it no longer does. */
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

/** performance.now() at which the time of each kind is over. */
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

/** To look at all that is open takes a while, and what was cut takes one to be gone. */
const roomMs = 100;
/** So much of the limit is left when somebody was cut, so that the next request does not cut the next one. */
const roomShare = 7 / 8;
/** What waits for less does not wait for a slow reader. */
const slowMs = 1000;

const tickMs = 500;
let coarse = performance.now();

/** performance.now() of the last tick: good enough for limits of seconds, and free. */
export function coarseNow(): number {
  return coarse;
}

/** Every open connection of the process. */
export class ConnectionTable {
  readonly #open = new Set<Connection>();
  readonly #arriving = new Set<Socket>();
  readonly #stop: () => void;
  #whenEmpty: (() => void) | undefined = undefined;
  /** performance.now() before which nobody is cut again for memory. */
  #roomAt = 0;

  readonly #expired: (connection: Connection) => void;

  /** `expired` is told of each connection behind which a certificate has ended. */
  constructor(expired: (connection: Connection) => void) {
    this.#expired = expired;
    // Else what comes before the first tick would be as old as this module, and idle at once.
    coarse = performance.now();
    this.#stop = every('connections', tickMs, () => this.#tick());
  }

  /** Those whose handshake is not over count as well: they hold a descriptor, and anybody can open them. */
  get size(): number {
    return this.#open.size + this.#arriving.size;
  }

  /** A TCP connection on which the handshake begins. */
  arrive(raw: Socket): void {
    this.#arriving.add(raw);
    raw.once('close', () => this.#arriving.delete(raw));
  }

  /** `raw` is what it arrived on, where that is another socket. */
  add(connection: Connection, raw?: Socket): void {
    if (raw !== undefined) this.#arriving.delete(raw);
    this.#open.add(connection);
    holdSocket(connection.socket);
    connection.socket.once('close', () => {
      this.#open.delete(connection);
      if (this.#open.size === 0) this.#whenEmpty?.();
    });
  }

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
   * Asks every connection of `direction` to finish, and resolves when none is left. What is still open when the time of its
   * kind is over is cut, and is in the report.
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
        connection.cut(new SallyportError('draining', 'the time to finish is over'));
      }
      const left = open.filter((one) => !cut.has(one));
      if (left.length === 0) break;
      await this.#nextClose(Math.min(...left.map((one) => deadlines[kindOf(one)])) - now);
    }
    // A moment for last words, then nothing stays.
    if (cut.size > 0) await new Promise((resolve) => setTimeout(resolve, lastWordsMs));
    for (const connection of cut.keys()) connection.socket.destroy();
    return { finished: all.length - cut.size, cut: [...cut.values()] };
  }

  /** Resolves at `notBefore`, or when no connection of `direction` is open any more, whichever comes later; at `notAfter` in any case. */
  async whenUnused(direction: PortRules['direction'], notBefore: number, notAfter: number): Promise<void> {
    for (;;) {
      const now = performance.now();
      const isUsed = [...this.#open].some((one) => one.port.rules.current().direction === direction);
      if (now >= notAfter || (now >= notBefore && !isUsed)) return;
      await this.#nextClose((isUsed ? notAfter : notBefore) - now);
    }
  }

  /**
   * Whether no more than `limit` bytes wait for slow readers. Where more do, whoever has held the most for the longest is cut
   * first, and not who comes next; who takes what they are given as it comes is not cut for it.
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
      const what = `${one.bytes} bytes waited for its reader for ${Math.round(one.waitMs)} ms`;
      one.drop(new SallyportError('memory_full', `${what}, and memory is short (limit heldBytes)`));
      // What waits in sockets is not counted down as it goes.
      if (++cut % 16 === 0) measureSockets();
    }
    measureSockets();
    return heldBytes() <= limit;
  }

  close(): void {
    this.#stop();
    for (const raw of this.#arriving) raw.destroy();
    for (const connection of this.#open) connection.socket.destroy();
  }

  #tick(): void {
    coarse = performance.now();
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
