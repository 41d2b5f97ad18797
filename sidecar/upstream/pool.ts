// The connections to one upstream: made when needed, kept while they are worth it, the last one used given first so
// that the rest can age out. Endpoints take turns; one that does not answer is passed over for the next. A peer that speaks
// HTTP/2 carries many exchanges on one connection.

import { isIP } from 'node:net';
import { TLSSocket } from 'node:tls';
import { type Address, formatAddress, formatPlace } from '../../cert-agent/base/address.ts';
import { asSallyportError, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import type { BareConnection, Destination, Limits, UpstreamConnection } from '../exchange.ts';
import { type ClientOwner, Http1Client } from '../protocol/http1-client.ts';
import { Http2Client, type Http2ClientOwner } from '../protocol/http2-client.ts';
import type { Dial, Dialed } from './dial.ts';
import type { Resolver } from './resolve.ts';

export interface PoolOptions {
  /** For messages: the upstream's name, or `the app`. */
  readonly name: string;
  readonly endpoints: readonly Address[];
  readonly dial: Dial;
  /** A peer, by mutual TLS; else our own app. */
  readonly secure: boolean;
  /** What is offered to a peer: HTTP/2 and HTTP/1.1, or nothing for TCP, where a connection is one stream. */
  readonly alpn: readonly string[];
  /** It speaks HTTP/2 without being asked (h2c by prior knowledge). */
  readonly http2: boolean;
  /** Whether it is called before the first request, and missed until it has answered. */
  readonly awaited: boolean;
  readonly limits: Limits;
  /** How long an idle connection is kept where the upstream announces nothing, milliseconds. */
  readonly idleMs: number;
  readonly resolver: Resolver;
}

export class Pool implements Destination, ClientOwner, Http2ClientOwner {
  readonly #options: PoolOptions;
  readonly #idle: Http1Client[] = [];
  readonly #sessions: Http2Client[] = [];
  /** One that is being made, for whoever comes meanwhile: it may carry them all. */
  #coming: Promise<Http1Client | Http2Client> | undefined = undefined;
  readonly #timer: NodeJS.Timeout;
  #open = 0;
  /** Requests that wait for a connection. */
  #pending = 0;
  #turn = 0;
  /** Connections of an older epoch were made with another SVID or under another trust, and are not used again. */
  #epoch = 0;
  readonly #epochs = new WeakMap<Http1Client | Http2Client, number>();
  #closed = false;
  /** Why nobody has answered yet; undefined once somebody has. */
  #unanswered: string | undefined;
  #greeting = false;
  /** What the peer chose last; until it has, that it will choose HTTP/2. */
  #speaksHttp2 = true;

  constructor(options: PoolOptions) {
    this.#options = options;
    this.#unanswered = options.awaited ? 'nobody was asked yet' : undefined;
    for (const endpoint of options.endpoints) if ('host' in endpoint) options.resolver.watch(endpoint.host);
    this.#timer = setInterval(() => this.#tick(), 1000);
    this.#timer.unref();
    this.#greet();
  }

  /** Connections that exist, idle ones included. */
  get size(): number {
    return this.#open;
  }

  get idle(): number {
    return this.#idle.length + this.#sessions.filter(({ http2 }) => http2.size === 0).length;
  }

  /** The first endpoint name that has never resolved, if there is one. */
  waitingFor(): string | undefined {
    for (const endpoint of this.#options.endpoints) {
      if ('host' in endpoint && this.#options.resolver.addressesOf(endpoint.host).length === 0)
        return `the name ${endpoint.host} of upstream ${this.#options.name}`;
    }
    return undefined;
  }

  /** Why this peer has not answered once since we know of it; undefined as soon as it has. */
  unanswered(): string | undefined {
    return this.#unanswered === undefined ? undefined : `upstream ${this.#options.name}: ${this.#unanswered}`;
  }

  acquire(fresh: boolean, upgrades: boolean): UpstreamConnection | Promise<UpstreamConnection> {
    if (!fresh) {
      const kept = upgrades ? this.#takeIdle() : (this.#takeStream() ?? this.#takeIdle());
      if (kept !== undefined) return kept;
    }
    const { limits, name } = this.#options;
    if (this.#pending >= limits.pendingRequests) {
      throw new SallyportError('overloaded', `${this.#pending} requests wait for ${name} (limit pendingRequests)`);
    }
    // One that is just being made is as fresh as any, and may carry all who wait.
    if (!upgrades && this.#coming !== undefined)
      return this.#waitFor(
        this.#coming.then((client) =>
          client instanceof Http2Client && client.hasRoom ? client.take() : this.acquire(fresh, false),
        ),
      );
    if (this.#open >= limits.connections) {
      throw new SallyportError('overloaded', `${name} has ${this.#open} connections (limit connections)`);
    }
    if (upgrades) return this.#waitFor(this.#acquireForUpgrade());
    const coming = this.#connect(this.#options.alpn);
    if (this.#options.http2 || (this.#options.alpn.includes('h2') && this.#speaksHttp2)) this.#announce(coming);
    return this.#waitFor(coming.then(take));
  }

  /** Counts a request as pending for as long as it waits. */
  #waitFor(connection: Promise<UpstreamConnection>): Promise<UpstreamConnection> {
    this.#pending++;
    const over = (): void => {
      this.#pending--;
    };
    connection.then(over, over);
    return connection;
  }

  /**
   * An upgrade takes a whole connection, and HTTP/1.1's way of asking for it, where the other side speaks that at all; else
   * a stream, and extended CONNECT.
   */
  async #acquireForUpgrade(): Promise<UpstreamConnection> {
    const { http2, secure, name } = this.#options;
    if (!http2) {
      try {
        return take(await this.#connect(http1Only));
      } catch (error) {
        if (!secure || !(error instanceof SallyportError) || error.code !== 'upstream_tls') throw error;
      }
    }
    const session = this.#sessions.findLast((one) => one.hasRoom) ?? (await this.#connect(this.#options.alpn));
    if (session instanceof Http1Client) return session;
    await new Promise<void>((resolve) => session.http2.whenSettled(resolve));
    if (session.http2.peerConnects) return session.take();
    throw new SallyportError('upgrade_unsupported', `${name} speaks HTTP/2 without extended CONNECT (RFC 8441)`);
  }

  /** The connection with room that was made last: the older ones may run dry. */
  #takeStream(): UpstreamConnection | undefined {
    return this.#sessions.findLast((one) => one.hasRoom)?.take();
  }

  #takeIdle(): Http1Client | undefined {
    const now = performance.now();
    for (let client = this.#idle.pop(); client !== undefined; client = this.#idle.pop()) {
      if (client.usableUntil > now) return client;
      client.destroy();
    }
    return undefined;
  }

  #announce(coming: Promise<Http1Client | Http2Client>): void {
    this.#coming = coming;
    const over = (): void => {
      if (this.#coming === coming) this.#coming = undefined;
    };
    coming.then(over, over);
  }

  /** A bare connection, for TCP. */
  async dialSocket(): Promise<BareConnection> {
    const { socket, peer, address } = await this.#dialAny([]);
    const localAddress = formatPlace(socket.localAddress, socket.localPort);
    return { socket, peer, address: formatAddress(address), localAddress };
  }

  released(client: Http1Client): void {
    if (this.#closed || this.#epochs.get(client) !== this.#epoch) client.destroy();
    else this.#idle.push(client);
  }

  gone(client: Http1Client | Http2Client): void {
    this.#open--;
    const list: (Http1Client | Http2Client)[] = client instanceof Http2Client ? this.#sessions : this.#idle;
    const at = list.indexOf(client);
    if (at !== -1) list.splice(at, 1);
  }

  quiet(client: Http2Client): void {
    if (this.#closed || this.#epochs.get(client) !== this.#epoch) client.retire();
  }

  /** No connection made before now is used again: our SVID or whom we trust has changed. Those in use go on. */
  renew(): void {
    this.#epoch++;
    for (const client of this.#idle.splice(0)) client.destroy();
    for (const session of [...this.#sessions]) session.retire();
    this.#coming = undefined;
    this.#greet();
  }

  /** Closes what is idle; connections in use close when they are given back. */
  close(): void {
    this.#closed = true;
    this.#unanswered = undefined;
    clearInterval(this.#timer);
    for (const endpoint of this.#options.endpoints)
      if ('host' in endpoint) this.#options.resolver.forget(endpoint.host);
    this.renew();
  }

  async #connect(alpn: readonly string[]): Promise<Http1Client | Http2Client> {
    this.#open++;
    const epoch = this.#epoch;
    try {
      const { socket, peer, address } = await this.#dialAny(alpn);
      const { secure, http2, idleMs, limits } = this.#options;
      const { headBytes, headFields } = limits;
      const options = { secure, peer, address: formatAddress(address), headBytes, headFields };
      const speaksHttp2 = http2 || (socket instanceof TLSSocket && socket.alpnProtocol === 'h2');
      if (alpn.includes('h2')) this.#speaksHttp2 = speaksHttp2;
      const client = speaksHttp2
        ? new Http2Client(socket, this, options)
        : new Http1Client(socket, this, { ...options, idleMs });
      this.#epochs.set(client, epoch);
      if (client instanceof Http2Client) {
        this.#sessions.push(client);
        // Our SVID has changed while it was made: it serves who waits for it, and nobody after.
        if (epoch !== this.#epoch) setImmediate(() => client.retire());
      }
      return client;
    } catch (error) {
      this.#open--;
      throw error;
    }
  }

  /** Tries each address once, beginning with the next in turn, and throws the last error. */
  async #dialAny(alpn: readonly string[]): Promise<Dialed & { readonly address: Address }> {
    const { name, dial, limits, resolver } = this.#options;
    const addresses = this.#addresses();
    if (addresses.length === 0)
      throw new SallyportError('upstream_unresolved', `no endpoint of ${name} has an address yet`, {
        hint: 'see "waiting for the name" in the log',
      });
    const first = this.#turn++;
    let failure: SallyportError | undefined;
    for (let i = 0; i < addresses.length; i++) {
      const { address, host } = addresses[(first + i) % addresses.length]!;
      try {
        const dialed = await dial(address, limits.connectMs, alpn);
        this.#unanswered = undefined;
        return { ...dialed, address };
      } catch (error) {
        failure = asSallyportError(error, 'upstream_connect', `${formatAddress(address)} takes no connection`);
        if (host !== undefined) resolver.refresh(host);
      }
    }
    throw failure!;
  }

  #addresses(): { address: Address; host: string | undefined }[] {
    return this.#options.endpoints.flatMap((endpoint): { address: Address; host: string | undefined }[] => {
      if ('path' in endpoint) return [{ address: endpoint, host: undefined }];
      const host = isIP(endpoint.host) === 0 ? endpoint.host : undefined;
      return this.#options.resolver
        .addressesOf(endpoint.host)
        .map((one) => ({ address: { host: one, port: endpoint.port }, host }));
    });
  }

  /**
   * Until it has answered once, a peer is called without waiting for a request: whoever asks whether we are ready learns
   * who is missing, and the connection that comes of it serves the first request.
   */
  #greet(): void {
    if (this.#unanswered === undefined || this.#greeting) return;
    this.#greeting = true;
    const { alpn } = this.#options;
    const called =
      alpn.length > 0
        ? this.#connect(alpn).then((client) => client instanceof Http1Client && this.released(client))
        : this.dialSocket().then(({ socket }) => socket.destroy());
    void called
      .catch((error: unknown) => {
        if (this.#unanswered !== undefined) this.#unanswered = reasonOf(error);
      })
      .finally(() => {
        this.#greeting = false;
      });
  }

  #tick(): void {
    this.#greet();
    const now = performance.now();
    for (const client of this.#idle.filter((one) => one.usableUntil <= now)) client.destroy();
    const { idleMs } = this.#options;
    for (const one of [...this.#sessions]) {
      one.http2.tick(now);
      if (one.http2.size === 0 && now - one.quietSince > idleMs) one.retire();
    }
  }
}

const http1Only = ['http/1.1'];

function take(client: Http1Client | Http2Client): UpstreamConnection {
  return client instanceof Http2Client ? client.take() : client;
}
