// The connections to one address of an upstream: opened when needed, kept while useful. The last one used is reused
// first, so that the others can age out. An HTTP/2 connection carries many exchanges.

import { performance } from 'node:perf_hooks';
import { TLSSocket } from 'node:tls';
import { type Address, formatAddress, formatPlace } from '../../cert-agent/base/address.ts';
import { asSallyportError, SallyportError } from '../../cert-agent/base/errors.ts';
import { retirementOf } from '../../cert-agent/identity/retirement.ts';
import { holdSocket } from '../exchange/held-bytes.ts';
import type { Limits } from '../exchange/limits.ts';
import type { BareConnection, Choice, UpstreamConnection } from '../exchange/upstream.ts';
import { type ClientOptions, type ClientOwner, Http1Client } from '../protocol/http1/client.ts';
import { Http2Client, type Http2ClientOwner } from '../protocol/http2/client.ts';
import type { Candidate } from './balance.ts';
import type { Breaker } from './breaker.ts';
import type { Dial, Dialed } from './dial.ts';
import { Conduct } from './outlier.ts';

/** The options that all endpoints of an upstream share. */
export interface EndpointOptions {
  /** For messages: the upstream's name, or `the app`. */
  readonly name: string;
  readonly dial: Dial;
  /** Over TLS; else plain. */
  readonly secure: boolean;
  /** The protocols offered to a peer: HTTP/2 and HTTP/1.1, or none for TCP, where a connection is one stream. */
  readonly alpn: readonly string[];
  /** It speaks HTTP/2 unless ALPN selects HTTP/1.1: by prior knowledge, RFC 9113 section 3.3. */
  readonly http2: boolean;
  readonly limits: Limits;
  /** How long an idle connection is kept if the upstream announces nothing, milliseconds. */
  readonly idleMs: number;
}

/** What an endpoint reports to its pool. */
export interface EndpointOwner {
  /** A connection was opened. */
  connected(endpoint: Endpoint): void;
  /** A connection could not be opened. */
  unreachable(endpoint: Endpoint, error: SallyportError): void;
  /** A connection is gone, and another endpoint may have its place. */
  freed(): void;
}

/** A request that waits because its upstream has reached its limit of connections. */
interface Waiter {
  readonly upgrades: boolean;
  readonly choice: Choice | undefined;
  /** The number of its try. */
  readonly attempt: number | undefined;
  resolve(connection: UpstreamConnection | Promise<UpstreamConnection>): void;
  reject(error: unknown): void;
}

class KeptHttp1 extends Http1Client {
  /** Connections of an older epoch were made with another SVID or under another trust, and are not reused. */
  epoch = 0;
  uses = 0;
  madeAt = 0;
  /** When it stops accepting requests: see identity/retirement.ts; milliseconds since 1970. */
  retireAt = Number.POSITIVE_INFINITY;
  /** It was idle and is being closed. */
  isDoomed = false;
}

class KeptHttp2 extends Http2Client {
  epoch = 0;
  uses = 0;
  madeAt = 0;
  retireAt = Number.POSITIVE_INFINITY;
}

type Kept = KeptHttp1 | KeptHttp2;

/** After a failed dial other endpoints are preferred for this long; twice as long with each further failure. */
const restMs = 1000;
const longestRestMs = 16_000;

/** The pool makes one for each current address. After `leave`, connections close when their requests are over. */
export class Endpoint implements Candidate, ClientOwner, Http2ClientOwner {
  readonly address: string;
  readonly place: Address;
  /** The name that it is an address of; undefined if the configuration has the address. */
  readonly host: string | undefined;
  readonly conduct = new Conduct();
  /** Why the last dial failed; undefined after a success. */
  problem: SallyportError | undefined = undefined;
  /** The last problem that was logged. */
  toldProblem: string | undefined = undefined;
  /** The result of the health checks; undefined before the first, or without any. */
  healthy: boolean | undefined = undefined;
  /** performance.now() until which others are preferred, since it did not answer. */
  restUntil = 0;
  readonly #options: EndpointOptions;
  readonly #owner: EndpointOwner;
  readonly #breaker: Breaker;
  readonly #idle: KeptHttp1[] = [];
  readonly #sessions: KeptHttp2[] = [];
  readonly #queue: Waiter[] = [];
  /** A connection that is being opened, for all requests that arrive meanwhile: it may carry them all. */
  #coming: Promise<Kept> | undefined = undefined;
  #open = 0;
  #connecting = 0;
  #doomed = 0;
  /** Bare connections that were handed out. */
  #streams = 0;
  #waiting = 0;
  #epoch = 0;
  #isLeaving = false;
  #failures = 0;
  /** The peer's last choice of protocol; before the first, HTTP/2 is assumed. */
  #speaksHttp2 = true;

  constructor(
    place: Address,
    host: string | undefined,
    options: EndpointOptions,
    breaker: Breaker,
    owner: EndpointOwner,
  ) {
    this.place = place;
    this.address = formatAddress(place);
    this.host = host;
    this.#options = options;
    this.#breaker = breaker;
    this.#owner = owner;
  }

  /** Connections that exist, including idle ones. */
  get size(): number {
    return this.#open + this.#streams;
  }

  /** Connections without a request. Those in HTTP/2 count once. */
  get idle(): number {
    let idle = this.#idle.length;
    for (const { http2 } of this.#sessions) if (http2.size === 0) idle++;
    return idle;
  }

  /** Requests in flight or waiting for a connection, and TCP streams. */
  get inFlight(): number {
    const busy = this.#open - this.#connecting - this.#doomed - this.#idle.length - this.#sessions.length;
    let sum = busy + this.#waiting + this.#streams;
    for (const { load } of this.#sessions) sum += load;
    return sum;
  }

  /** @throws SallyportError `upstream_*` or `overloaded`. */
  acquire(
    fresh: boolean,
    upgrades: boolean,
    choice: Choice | undefined,
  ): UpstreamConnection | Promise<UpstreamConnection> {
    const kept = fresh ? undefined : this.#takeKept(upgrades);
    if (kept !== undefined) return kept;
    this.#breaker.checkPending();
    return this.#waitFor(this.#obtain(fresh, upgrades, choice));
  }

  #obtain(fresh: boolean, upgrades: boolean, choice: Choice | undefined): Promise<UpstreamConnection> {
    // A connection that is being opened may carry all who wait.
    if (!upgrades && this.#coming !== undefined)
      return this.#coming.then((client) => {
        if (client instanceof KeptHttp2 && this.#hasRoom(client)) return this.#takeStream(client);
        return (fresh ? undefined : this.#takeKept(false)) ?? this.#obtain(fresh, false, choice);
      });
    if (!this.#breaker.mayConnect(this.#open)) return this.#enqueue(upgrades, choice);
    return this.#connectFor(upgrades);
  }

  #connectFor(upgrades: boolean): Promise<UpstreamConnection> {
    if (upgrades) return this.#acquireForUpgrade();
    const { http2, alpn } = this.#options;
    const coming = this.#connect(alpn);
    if (http2 || (alpn.includes('h2') && this.#speaksHttp2)) this.#announce(coming);
    return coming.then((client) => this.#take(client));
  }

  /** Counts a request as pending while it waits. */
  #waitFor(connection: Promise<UpstreamConnection>): Promise<UpstreamConnection> {
    this.#breaker.pending++;
    this.#waiting++;
    const over = (): void => {
      this.#breaker.pending--;
      this.#waiting--;
    };
    connection.then(over, over);
    return connection;
  }

  /**
   * An upgrade takes a whole connection, and HTTP/1.1's way of requesting it, if the other side speaks that; else a
   * stream and extended CONNECT.
   */
  async #acquireForUpgrade(): Promise<UpstreamConnection> {
    const { http2, secure, name, alpn } = this.#options;
    if (!http2) {
      try {
        return this.#take(await this.#connect(http1Only));
      } catch (error) {
        if (!secure || !(error instanceof SallyportError) || error.code !== 'upstream_tls') throw error;
      }
    }
    const session = this.#sessions.findLast((one) => this.#hasRoom(one)) ?? (await this.#connect(alpn));
    if (session instanceof KeptHttp1) return this.#take(session);
    await new Promise<void>((resolve) => session.http2.whenSettled(resolve));
    if (session.http2.peerConnects) return this.#takeStream(session);
    throw new SallyportError('upgrade_unsupported', `${name} speaks HTTP/2 without extended CONNECT (RFC 8441)`);
  }

  #take(client: Kept): UpstreamConnection {
    if (client instanceof KeptHttp2) return this.#takeStream(client);
    client.uses++;
    return client;
  }

  #takeKept(upgrades: boolean): UpstreamConnection | undefined {
    if (!upgrades && this.#sessions.length > 0) {
      // The newest connection with room: older ones may then become idle and close.
      for (let i = this.#sessions.length - 1; i >= 0; i--) {
        const session = this.#sessions[i]!;
        if (this.#hasRoom(session)) return this.#takeStream(session);
      }
    }
    return this.#takeIdle();
  }

  #hasRoom(session: KeptHttp2): boolean {
    const { maxStreamsPerConnection } = this.#breaker.plan;
    if (Date.now() >= session.retireAt) return false;
    return session.hasRoom && (maxStreamsPerConnection === undefined || session.load < maxStreamsPerConnection);
  }

  #takeStream(session: KeptHttp2): UpstreamConnection {
    const stream = session.take();
    const { maxRequestsPerConnection } = this.#breaker.plan;
    // It closes when the last of them is over.
    if (++session.uses === maxRequestsPerConnection) session.retire();
    return stream;
  }

  #takeIdle(): KeptHttp1 | undefined {
    if (this.#idle.length === 0) return undefined;
    const now = performance.now();
    const wall = Date.now();
    for (let client = this.#idle.pop(); client !== undefined; client = this.#idle.pop()) {
      if (client.usableUntil > now && wall < client.retireAt) {
        client.uses++;
        return client;
      }
      this.#discard(client);
    }
    return undefined;
  }

  #announce(coming: Promise<Kept>): void {
    this.#coming = coming;
    const over = (): void => {
      if (this.#coming === coming) this.#coming = undefined;
    };
    coming.then(over, over);
  }

  // -- requests that wait at the limit of connections
  // -----------------------------------------------------------------------

  #enqueue(upgrades: boolean, choice: Choice | undefined): Promise<UpstreamConnection> {
    const attempt = choice?.attempt;
    return new Promise((resolve, reject) => this.#queue.push({ upgrades, choice, attempt, resolve, reject }));
  }

  /** Gives waiting requests the available connections, in order of arrival. */
  serveQueue(): void {
    while (this.#queue.length > 0) {
      const [first] = this.#queue as [Waiter];
      const { upgrades, resolve, reject } = first;
      try {
        if (hasLeft(first)) reject(gone());
        else {
          const kept = this.#takeKept(upgrades);
          if (kept !== undefined) resolve(kept);
          else if (this.#breaker.mayConnect(this.#open)) resolve(this.#connectFor(upgrades));
          else return;
        }
      } catch (error) {
        reject(error);
      }
      this.#queue.shift();
    }
  }

  // -- connections -------------------------------------------------------------------------------------------------

  /** A bare connection, for TCP. @throws SallyportError `upstream_*`. */
  async dialSocket(): Promise<BareConnection> {
    this.#streams++;
    this.#breaker.connections++;
    try {
      const { socket, peer } = await this.#dial([]);
      holdSocket(socket);
      socket.once('close', () => this.#streamGone());
      const localAddress = formatPlace(socket.localAddress, socket.localPort);
      return { socket, peer, address: this.address, localAddress };
    } catch (error) {
      this.#streamGone();
      throw error;
    }
  }

  #streamGone(): void {
    this.#streams--;
    this.#breaker.connections--;
    this.#owner.freed();
  }

  /** Connects without a request; the connection serves the first one. @throws SallyportError `upstream_*`. */
  async greet(): Promise<void> {
    const { alpn } = this.#options;
    if (alpn.length === 0) (await this.#dial([])).socket.destroy();
    else {
      const client = await this.#connect(alpn);
      if (client instanceof KeptHttp1) this.released(client);
    }
  }

  /** A connection outside of all counts, for health checks. @throws SallyportError `upstream_*`. */
  async connectApart(owner: ClientOwner & Http2ClientOwner): Promise<Http1Client | Http2Client> {
    const { dial, limits, alpn } = this.#options;
    return this.#speak(await dial(this.place, limits.connectMs, alpn), owner, Http1Client, Http2Client);
  }

  /** Connects and disconnects, for health checks. @throws SallyportError `upstream_*`. */
  async touch(timeoutMs: number): Promise<void> {
    const { dial, alpn } = this.#options;
    (await dial(this.place, timeoutMs, alpn)).socket.destroy();
  }

  async #connect(alpn: readonly string[]): Promise<Kept> {
    this.#open++;
    this.#connecting++;
    this.#breaker.connections++;
    const epoch = this.#epoch;
    try {
      const dialed = await this.#dial(alpn);
      const client = this.#speak(dialed, this, KeptHttp1, KeptHttp2);
      client.epoch = epoch;
      client.madeAt = performance.now();
      client.retireAt = retirementOf(dialed.validUntil, Date.now());
      if (alpn.includes('h2')) this.#speaksHttp2 = client instanceof KeptHttp2;
      if (client instanceof KeptHttp2) {
        // Until its own SETTINGS arrive, assume as many streams as on the others.
        const settled = this.#sessions.findLast(({ http2 }) => http2.peerSettled);
        if (settled !== undefined && !client.http2.peerSettled)
          client.http2.maxPeerStreams = settled.http2.maxPeerStreams;
        this.#sessions.push(client);
        // Our SVID changed while it was opened: it serves the requests that wait for it, and no others.
        if (epoch !== this.#epoch) setImmediate(() => client.retire());
      }
      return client;
    } catch (error) {
      this.#open--;
      this.#breaker.connections--;
      // A request that waits at the limit may have its place.
      queueMicrotask(() => this.#owner.freed());
      throw error;
    } finally {
      this.#connecting--;
    }
  }

  #speak<A extends Http1Client, B extends Http2Client>(
    { socket, peer }: Dialed,
    owner: ClientOwner & Http2ClientOwner,
    one: new (...of: ConstructorParameters<typeof Http1Client>) => A,
    two: new (...of: ConstructorParameters<typeof Http2Client>) => B,
  ): A | B {
    const { secure, http2, idleMs, limits } = this.#options;
    const { headBytes, headFields } = limits;
    const options: ClientOptions = { secure, peer, address: this.address, headBytes, headFields, idleMs };
    const negotiated = socket instanceof TLSSocket ? socket.alpnProtocol : null;
    const speaksHttp2 = negotiated === 'h2' || (http2 && negotiated !== 'http/1.1');
    return speaksHttp2 ? new two(socket, owner, options) : new one(socket, owner, options);
  }

  async #dial(alpn: readonly string[]): Promise<Dialed> {
    const { connectMs, keepAlive } = this.#breaker.plan;
    const { dial, limits } = this.#options;
    try {
      const dialed = await dial(this.place, connectMs ?? limits.connectMs, alpn);
      if (keepAlive !== undefined)
        dialed.socket.setKeepAlive(true, keepAlive.timeMs, keepAlive.intervalMs, keepAlive.probes);
      this.#failures = 0;
      this.problem = undefined;
      this.toldProblem = undefined;
      this.restUntil = 0;
      this.#owner.connected(this);
      return dialed;
    } catch (error) {
      const failure = asSallyportError(error, 'upstream_connect', `cannot connect to ${this.address}`);
      this.restUntil = performance.now() + Math.min(longestRestMs, restMs * 2 ** this.#failures++);
      this.problem = failure;
      this.#owner.unreachable(this, failure);
      throw failure;
    }
  }

  /** Keeps the connection, unless it is too old or was made with another SVID or trust. */
  released(client: Http1Client): void {
    const kept = client as KeptHttp1;
    if (this.#mayKeep(kept)) {
      this.#idle.push(kept);
      if (this.#queue.length > 0) this.serveQueue();
    } else kept.destroy();
  }

  #mayKeep(client: KeptHttp1): boolean {
    const { maxRequestsPerConnection, maxConnectionMs } = this.#breaker.plan;
    if (this.#isLeaving || client.epoch !== this.#epoch || Date.now() >= client.retireAt) return false;
    if (maxRequestsPerConnection !== undefined && client.uses >= maxRequestsPerConnection) return false;
    return maxConnectionMs === undefined || performance.now() - client.madeAt < maxConnectionMs;
  }

  /** Its place is free: another endpoint may have it. */
  gone(client: Http1Client | Http2Client): void {
    this.#open--;
    this.#breaker.connections--;
    if (client instanceof KeptHttp1 && client.isDoomed) this.#doomed--;
    const list: (Http1Client | Http2Client)[] = client instanceof Http2Client ? this.#sessions : this.#idle;
    const at = list.indexOf(client);
    if (at !== -1) list.splice(at, 1);
    this.#owner.freed();
  }

  /** As `released`: the connection stays or is retired. */
  quiet(client: Http2Client): void {
    const kept = client as KeptHttp2;
    if (this.#isLeaving || kept.epoch !== this.#epoch || Date.now() >= kept.retireAt) kept.retire();
    else if (this.#queue.length > 0) this.serveQueue();
  }

  /** A stream's place is free: those that wait come first. */
  freed(): void {
    if (this.#queue.length > 0) this.serveQueue();
  }

  /** Exchanges on it continue. If no other connection may be opened, one that may be ended is better than none. */
  worn(client: Http2Client): void {
    if (this.#breaker.hasRoom()) client.retire();
  }

  /** Closes an idle connection that is no longer in the idle list. */
  #discard(client: KeptHttp1): void {
    client.isDoomed = true;
    this.#doomed++;
    client.destroy();
  }

  // -- how it ends -------------------------------------------------------------------------------------------------

  /** Connections made before now are not reused: our SVID or our trust has changed. Those in use continue. */
  renew(): void {
    this.#epoch++;
    for (const client of this.#idle.splice(0)) this.#discard(client);
    for (const session of [...this.#sessions]) session.retire();
    this.#coming = undefined;
  }

  /** It is no endpoint any more: idle connections close now, those in use when they are returned. */
  leave(): void {
    this.#isLeaving = true;
    this.renew();
  }

  /** Sends requests that wait here to other endpoints. */
  turnAway(): void {
    for (const { reject } of this.#queue.splice(0))
      reject(
        new SallyportError('upstream_connect', `${this.address} is no longer an endpoint of ${this.#options.name}`),
      );
  }

  /** Called periodically: closes connections that were idle for too long, or are too old. */
  tick(now: number): void {
    const { maxConnectionMs = Number.POSITIVE_INFINITY } = this.#breaker.plan;
    const wall = Date.now();
    for (let i = this.#idle.length - 1; i >= 0; i--) {
      const client = this.#idle[i]!;
      if (client.usableUntil > now && now - client.madeAt < maxConnectionMs && wall < client.retireAt) continue;
      this.#idle.splice(i, 1);
      this.#discard(client);
    }
    const { idleMs } = this.#options;
    for (const one of [...this.#sessions]) {
      one.http2.tick(now);
      const isOld = now - one.madeAt > maxConnectionMs || wall >= one.retireAt;
      if ((one.http2.size === 0 && now - one.quietSince > idleMs) || isOld) one.retire();
    }
    this.#forgetGone();
    if (this.#queue.length > 0) this.serveQueue();
  }

  /** A request that left the queue early no longer counts as waiting: others may have its place. */
  #forgetGone(): void {
    for (let i = this.#queue.length - 1; i >= 0; i--)
      if (hasLeft(this.#queue[i]!)) this.#queue.splice(i, 1)[0]!.reject(gone());
  }
}

function hasLeft({ choice, attempt }: Waiter): boolean {
  return choice !== undefined && (choice.over || choice.attempt !== attempt);
}

const gone = (): SallyportError => new SallyportError('overloaded', 'the request no longer waits for a connection');

const http1Only = ['http/1.1'];
