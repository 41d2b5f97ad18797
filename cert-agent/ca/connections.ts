// The CA's open connections: how many there may be, and which one ends when there is no room for the next. Anyone may
// connect, so whoever has shown a valid SVID keeps its connection, and strangers share what is left.

import type { Server } from 'node:https';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';

export interface ConnectionLimits {
  /** Open connections. Beyond, the stranger that has been idle longest is closed, else the new one. */
  readonly connections: number;
  /** Of them, those from one address; by default a quarter. */
  readonly connectionsPerAddress?: number;
  /** How long a stranger may be idle after an answer. Agents ask for the bundle within 12 s, as strangers. */
  readonly strangerIdleMs: number;
}

export interface ConnectionTable {
  /** A request has begun. Its connection is not idle from `read`, when its body is there, to `done`, when it is answered. */
  began(socket: TLSSocket): { read(): void; done(): void };
  /** Seconds that a client is told it may keep an idle connection; undefined where the server's own time holds. */
  keepAliveOf(socket: TLSSocket): number | undefined;
}

export interface ConnectionParts {
  readonly limits: ConnectionLimits;
  /** Whether what the client presented on this connection is a valid SVID. */
  isKnown(socket: TLSSocket): boolean;
  /** Told of each connection that was closed, or refused, for want of room. */
  onDrop(reason: string): void;
}

interface Entry {
  readonly key: string;
  readonly raw: Socket;
  readonly address: string;
  /** Whole requests without an answer yet. */
  busy: number;
  known: boolean;
  idleTimer: NodeJS.Timeout | undefined;
}

/** What a connection takes beyond the limit until it is closed; the system's own drop takes over from there. */
const slack = 256;

/** Watches the connections of `server`. To be called before it listens. */
export function watchConnections(server: Server, parts: ConnectionParts): ConnectionTable {
  const { connections, strangerIdleMs, connectionsPerAddress = Math.ceil(connections / 4) } = parts.limits;
  const entries = new Map<string, Entry>();
  const bySocket = new WeakMap<TLSSocket, Entry>();
  const perAddress = new Map<string, number>();
  /** Without an SVID, in the order in which they came or were last answered. */
  const strangers = new Set<Entry>();

  function forget(entry: Entry): void {
    if (entries.get(entry.key) !== entry) return;
    entries.delete(entry.key);
    strangers.delete(entry);
    clearTimeout(entry.idleTimer);
    const left = (perAddress.get(entry.address) ?? 1) - 1;
    if (left === 0) perAddress.delete(entry.address);
    else perAddress.set(entry.address, left);
  }

  /** Ends the stranger that has been idle longest, of `address` if one is given. False when there is none. */
  function makeRoom(address?: string): boolean {
    for (const entry of strangers) {
      if (entry.busy > 0 || (address !== undefined && entry.address !== address)) continue;
      forget(entry);
      entry.raw.destroy();
      return true;
    }
    return false;
  }

  server.maxConnections = connections + slack;
  server.on('drop', () => parts.onDrop('a connection is refused: too many are open'));
  // After TLS has wrapped it: what is destroyed before cannot be wrapped.
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
          ? `${full}: the connection without an SVID that was idle longest is closed`
          : `${full}: the connection from ${address} is refused`,
      );
      if (!hasRoom) return void raw.destroy();
    }
    const key = keyOf(raw);
    const entry: Entry = { key, raw, address, busy: 0, known: false, idleTimer: undefined };
    entries.set(key, entry);
    strangers.add(entry);
    perAddress.set(address, (perAddress.get(address) ?? 0) + 1);
    raw.once('close', () => forget(entry));
  });
  server.on('secureConnection', (socket: TLSSocket) => {
    const entry = entries.get(keyOf(socket));
    if (entry === undefined) return void socket.destroy();
    bySocket.set(socket, entry);
    entry.known = parts.isKnown(socket);
    if (entry.known) strangers.delete(entry);
  });

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
          ended = true;
          entry.busy -= counted;
          if (entry.busy > 0 || !strangers.delete(entry)) return;
          strangers.add(entry);
          entry.idleTimer = setTimeout(() => entry.raw.destroy(), strangerIdleMs);
        },
      };
    },
    // A second less than it is kept, so that no request meets its end.
    keepAliveOf: (socket) =>
      bySocket.get(socket)?.known === false ? Math.max(1, Math.floor(strangerIdleMs / 1000) - 1) : undefined,
  };
}

/** Names an open connection, whichever of its two sockets is asked. */
function keyOf({ remoteAddress, remotePort, localAddress, localPort }: Socket): string {
  return `${remoteAddress}|${remotePort}|${localAddress}|${localPort}`;
}
