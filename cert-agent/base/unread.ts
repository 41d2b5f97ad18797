// The long responses of one port that are not read to their end yet. Any client may ask a health port for the metrics
// and read nothing: what all of them hold together is bounded.

import type { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** Shorter bodies are not counted: a probe is answered however many clients read nothing. */
const leastCounted = 65_536;

/** Prometheus needs one, a pair of them two. */
const mostResponses = 16;

/** Of all counted bodies; one that several clients read counts once. A single one may be longer. */
const mostBytes = 128 << 20;

/** How long a client may take to read one. */
const readMs = 30_000;

interface Held {
  readonly address: string | undefined;
  readonly body: Buffer;
  readonly socket: Socket;
  readonly timer: NodeJS.Timeout;
  release(): void;
}

/** The responses of one port. */
export class UnreadResponses {
  /** The oldest first. */
  readonly #held = new Set<Held>();
  readonly #watched = new WeakSet<Socket>();

  /**
   * Counts a response until it is sent or its connection is closed; false if there is no room for it. A client that
   * holds several loses its oldest to one from another address.
   */
  hold(response: ServerResponse, socket: Socket, body: Buffer): boolean {
    if (body.length < leastCounted || socket.destroyed) return true;
    while (!this.#hasRoom(body)) {
      const victim = this.#victimOf(socket.remoteAddress);
      if (victim === undefined) return false;
      victim.release();
      victim.socket.destroy();
    }
    const held: Held = {
      ...{ address: socket.remoteAddress, body, socket },
      timer: setTimeout(() => socket.destroy(), readMs).unref(),
      release: () => {
        clearTimeout(held.timer);
        this.#held.delete(held);
        response.off('close', held.release);
      },
    };
    this.#held.add(held);
    response.once('close', held.release);
    this.#watch(socket);
    return true;
  }

  /** A response that waits behind another one of its connection is not closed with it. Once for all of a connection. */
  #watch(socket: Socket): void {
    if (this.#watched.has(socket)) return;
    this.#watched.add(socket);
    socket.once('close', () => {
      for (const one of this.#held) if (one.socket === socket) one.release();
    });
  }

  #hasRoom(body: Buffer): boolean {
    if (this.#held.size >= mostResponses) return false;
    const bodies = new Set([body]);
    for (const one of this.#held) bodies.add(one.body);
    let bytes = 0;
    for (const { length } of bodies) bytes += length;
    return bodies.size === 1 || bytes <= mostBytes;
  }

  /** The oldest of the address that holds the most, if that is at least two more than the asker's. */
  #victimOf(asker: string | undefined): Held | undefined {
    const byAddress = Map.groupBy(this.#held, ({ address }) => address);
    const own = byAddress.get(asker)?.length ?? 0;
    const [most = []] = [...byAddress.values()].sort((a, b) => b.length - a.length);
    return most.length >= own + 2 ? most[0] : undefined;
  }
}
