// Bounds for what clients of the webhook hold: connections and bytes of bodies. No client is known, not even the API
// server. So when a bound is reached, the connection that was silent longest is closed, or the largest body of the
// address that holds most is cut. An API server writes a review at once and reads its answer: it loses nothing.

import type { IncomingMessage } from 'node:http';
import type { Server, Socket } from 'node:net';

/** How many, and bytes. */
export interface RoomLimits {
  readonly connections: number;
  readonly bytes: number;
}

export interface Room {
  /** The connection of this request has said something, or was answered: others were silent longer. */
  touch(request: IncomingMessage): void;
  /** Counts `bytes` more of a body. False if it is the one that has to go; another that has to go is cut. */
  take(request: IncomingMessage, bytes: number): boolean;
  /** The body is not held any more. */
  release(request: IncomingMessage): void;
}

/** Connections that are accepted above the limit, until those that make room are closed. */
const slack = 256;

/** Watches the connections of `server`. Call it before the server listens. */
export function makeRoom(server: Server, limits: RoomLimits): Room {
  /** By the client's address and port, the longest silent first. TLS wraps the sockets, so they are no keys. */
  const open = new Map<string, Socket>();
  const bodies = new Map<IncomingMessage, { readonly address: string; bytes: number }>();
  let held = 0;

  server.maxConnections = limits.connections + slack;
  server.on('connection', (socket: Socket) => {
    const key = keyOf(socket);
    open.set(key, socket);
    socket.once('close', () => {
      if (open.get(key) === socket) open.delete(key);
    });
    if (open.size <= limits.connections) return;
    const [oldest] = open;
    open.delete(oldest![0]);
    oldest![1].destroy();
  });

  /** The largest body of the address whose bodies are the most. */
  function largest(): IncomingMessage | undefined {
    const sums = new Map<string, number>();
    for (const { address, bytes } of bodies.values()) sums.set(address, (sums.get(address) ?? 0) + bytes);
    const [[most] = []] = [...sums].sort(([, a], [, b]) => b - a);
    const theirs = [...bodies].filter(([, { address }]) => address === most);
    return theirs.sort(([, a], [, b]) => b.bytes - a.bytes)[0]?.[0];
  }

  function release(request: IncomingMessage): void {
    held -= bodies.get(request)?.bytes ?? 0;
    bodies.delete(request);
  }

  return {
    touch({ socket }) {
      const key = keyOf(socket);
      const known = open.get(key);
      if (known === undefined) return;
      open.delete(key);
      open.set(key, known);
    },
    take(request, bytes) {
      const known = bodies.get(request) ?? { address: request.socket.remoteAddress ?? '', bytes: 0 };
      known.bytes += bytes;
      held += bytes;
      bodies.set(request, known);
      while (held > limits.bytes) {
        const out = largest();
        if (out === undefined || out === request) return false;
        release(out);
        out.destroy();
      }
      return true;
    },
    release,
  };
}

function keyOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}
