// A visible cut. `destroy()` of a TLS socket sends a FIN without close_notify, which Node takes for a proper end on the
// other side (measured); only a reset of the underlying connection tells a truncated stream from a complete one.

import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { TLSSocket } from 'node:tls';

/** The TCP socket under each TLS socket that we made or accepted. */
const underneath = new WeakMap<Socket, Socket>();

/** Remembers the TCP socket under `secure`. */
export function runsOn(secure: TLSSocket, raw: Socket): void {
  underneath.set(secure, raw);
}

/** Closes `socket` so that the other side gets an error instead of a proper end. */
export function resetSocket(socket: Duplex): void {
  const raw = socket instanceof TLSSocket ? underneath.get(socket) : socket instanceof Socket ? socket : undefined;
  // Unix sockets have no reset; a destroyed one has nothing left to reset.
  if (raw !== undefined && !raw.destroyed && raw.remotePort !== undefined) raw.resetAndDestroy();
  if (!socket.destroyed) socket.destroy();
}
