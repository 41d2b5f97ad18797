// A cut that shows. `destroy()` of a TLS socket sends a FIN without close_notify, which Node's other end takes for a
// proper end (measured); only a reset of the connection underneath tells a truncated stream from a complete one.

import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';

/** The TCP socket underneath each TLS socket that we made or accepted. */
const underneath = new WeakMap<Socket, Socket>();

/** Remembers what `secure` runs on. */
export function runsOn(secure: TLSSocket, raw: Socket): void {
  underneath.set(secure, raw);
}

/** Ends `socket` so that the other side gets an error and not an end. */
export function resetSocket(socket: Duplex): void {
  const raw = socket instanceof TLSSocket ? underneath.get(socket) : socket instanceof Socket ? socket : undefined;
  // Unix sockets have no reset; a destroyed one has nothing left to reset.
  if (raw !== undefined && !raw.destroyed && raw.remotePort !== undefined) raw.resetAndDestroy();
  if (!socket.destroyed) socket.destroy();
}
