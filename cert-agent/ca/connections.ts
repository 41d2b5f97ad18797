// The CA's open connections: their limit, and which one is closed to make room. Any client may connect, so a client
// with a valid SVID keeps its connection, and unknown clients share the rest.

import type { Server, Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';

/** Of one listener. Counts are of sockets, with or without a finished handshake. */
export interface ConnectionLimits {
  /** Maximum of open connections. Above it, the unknown client that was idle longest is closed, else the new one. */
  readonly connections: number;
  /** Maximum from one address; by default a quarter. */
  readonly connectionsPerAddress?: number;
  /**
   * How long an unknown client may be idle after a response. Agents poll the bundle within 12 s without a certificate.
   */
  readonly strangerIdleMs: number;
}

/** Call `began` for each request, so that a busy connection is not closed to make room. */
export interface ConnectionTable {
  /**
   * A request has begun. Its connection counts as busy from `read` (the body is complete) to `done` (the response
   * sent).
   */
  began(socket: Socket): { read(): void; done(): void };
  /** Keep-alive seconds to announce to the client; undefined where the server's own limit applies. */
  keepAliveOf(socket: Socket): number | undefined;
}

/** `knownBy` is asked after the handshake, and its result at most once a second after that. */
export interface ConnectionParts {
  readonly limits: ConnectionLimits;
  /** Defined if the client presented a valid SVID on this connection; the result says whether it still is. */
  knownBy(socket: TLSSocket): (() => boolean) | undefined;
  /** Called for each connection that was closed or refused to make room. */
  onDrop(reason: string): void;
}

interface Entry {
  readonly key: string;
  readonly raw: Socket;
  readonly address: string;
  /** Complete requests without a response yet. */
  busy: number;
  /** Undefined for a stranger. */
  known: (() => boolean) | undefined;
  idleTimer: NodeJS.Timeout | undefined;
}

/** Connections accepted above the limit until they are closed; beyond these, the system drops them. */
const slack = 256;

/** How often all connections are looked at for SVIDs that are not valid any more. */
const lookMs = 1000;

/** Watches the connections of `server`, over TLS or not. Call it before the server listens. */
export function watchConnections(server: Server, parts: ConnectionParts): ConnectionTable {
  const { connections, strangerIdleMs, connectionsPerAddress = Math.ceil(connections / 4) } = parts.limits;
  const entries = new Map<string, Entry>();
  const bySocket = new WeakMap<Socket, Entry>();
  const perAddress = new Map<string, number>();
  /** Connections without an SVID, ordered by their start or last response. */
  const strangers = new Set<Entry>();
  let lookedAt = Number.NEGATIVE_INFINITY;

  function forget(entry: Entry): void {
    if (entries.get(entry.key) !== entry) return;
    entries.delete(entry.key);
    strangers.delete(entry);
    clearTimeout(entry.idleTimer);
    const left = (perAddress.get(entry.address) ?? 1) - 1;
    if (left === 0) perAddress.delete(entry.address);
    else perAddress.set(entry.address, left);
  }

  /** Clients whose SVIDs have expired or were denied since are strangers. Not at each connection: it looks at all. */
  function findStrangers(): boolean {
    const now = performance.now();
    if (now - lookedAt < lookMs) return false;
    lookedAt = now;
    const before = strangers.size;
    for (const entry of entries.values()) {
      if (entry.known === undefined || entry.known()) continue;
      entry.known = undefined;
      strangers.add(entry);
    }
    return strangers.size > before;
  }

  /** Closes the unknown client that was idle longest, of `address` if given. False if there is none. */
  function makeRoom(address?: string): boolean {
    return closeStranger(address) || (findStrangers() && closeStranger(address));
  }

  function closeStranger(address?: string): boolean {
    for (const entry of strangers) {
      if (entry.busy > 0 || (address !== undefined && entry.address !== address)) continue;
      forget(entry);
      entry.raw.destroy();
      return true;
    }
    return false;
  }

  server.maxConnections = connections + slack;
  server.on('drop', () => parts.onDrop('connection refused: too many are open'));
  // After TLS has wrapped it: a destroyed socket cannot be wrapped.
  server.on('connection', (raw: Socket) => {
    const address = raw.remoteAddress;
    if (address === undefined) return void raw.destroy();
    const fromThere = perAddress.get(address) ?? 0;
    const isShareFull = fromThere >= connectionsPerAddress;
    if (isShareFull || entries.size >= connections) {
      const full = isShareFull ? `${fromThere} connections are open from ${address}` : `${entries.size} are open`;
      const hasRoom = makeRoom(isShareFull ? address : undefined);
      parts.onDrop(
        hasRoom
          ? `${full}: closed the connection without an SVID that was idle longest`
          : `${full}: refused the connection from ${address}`,
      );
      if (!hasRoom) return void raw.destroy();
    }
    const key = keyOf(raw);
    const entry: Entry = { key, raw, address, busy: 0, known: undefined, idleTimer: undefined };
    entries.set(key, entry);
    // A plaintext server's requests come on this socket.
    bySocket.set(raw, entry);
    strangers.add(entry);
    perAddress.set(address, (perAddress.get(address) ?? 0) + 1);
    raw.once('close', () => forget(entry));
  });
  server.on('secureConnection', (socket: TLSSocket) => {
    const entry = entries.get(keyOf(socket));
    if (entry === undefined) return void socket.destroy();
    bySocket.set(socket, entry);
    entry.known = parts.knownBy(socket);
    if (entry.known !== undefined) strangers.delete(entry);
  });

  function isStranger(socket: Socket): boolean {
    const entry = bySocket.get(socket);
    return entry !== undefined && entry.known === undefined;
  }

  return {
    began(socket) {
      const entry = bySocket.get(socket);
      if (entry === undefined) return { read() {}, done() {} };
      clearTimeout(entry.idleTimer);
      let counted = 0;
      let ended = false;
      return {
        read() {
          if (ended) return;
          counted = 1;
          entry.busy++;
        },
        done() {
          if (ended) return;
          ended = true;
          entry.busy -= counted;
          if (entry.busy > 0 || !strangers.delete(entry)) return;
          strangers.add(entry);
          entry.idleTimer = setTimeout(() => entry.raw.destroy(), strangerIdleMs);
        },
      };
    },
    // A second less than the real limit, so that no request arrives while the connection is being closed.
    keepAliveOf: (socket) => (isStranger(socket) ? Math.max(1, Math.floor(strangerIdleMs / 1000) - 1) : undefined),
  };
}

/** The key of an open connection, the same for its TCP and its TLS socket. */
function keyOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress}|${remotePort}|${localAddress}|${localPort}`;
}
