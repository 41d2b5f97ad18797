// Load in HTTP/1.1: as many requests as the other side accepts, a fixed number per second, or messages on WebSockets.

import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import type { LoadSet } from './load.ts';

/** Requests for `path`, `inFlight` at once, each on its own connection. */
export interface Http1Job {
  readonly kind: 'http';
  readonly port: number;
  readonly inFlight: number;
  readonly path?: string;
}

/** `perSecond` requests, even if earlier ones are still in flight. Latencies count from when a request was due. */
export interface RateJob {
  readonly kind: 'rate';
  readonly port: number;
  readonly perSecond: number;
}

/** Messages of 128 bytes, one at a time on each of `inFlight` WebSockets. */
export interface WebSocketJob {
  readonly kind: 'websocket';
  readonly port: number;
  readonly inFlight: number;
}

export const head = (path: string, more = ''): Buffer =>
  Buffer.from(
    `GET ${path} HTTP/1.1\r\nHost: orders\r\nUser-Agent: perf/1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n${more}\r\n`,
  );

export const usualPath = '/v1/orders/7?full=1';

/** One request at a time on a connection; resolves when its response is complete. */
type Ask = (question: Buffer, answered: () => void) => void;

export async function openHttp1({ port, inFlight, path = usualPath }: Http1Job): Promise<LoadSet> {
  const sockets = await dialAll(port, inFlight);
  const question = head(path);
  return askInTurn(sockets, sockets.map(askOn), () => question);
}

/** A set of connections, each with one request after another. `questionOf` gets the number of earlier requests. */
export function askInTurn(
  sockets: readonly Socket[],
  asks: readonly Ask[],
  questionOf: (n: number) => Buffer,
): LoadSet {
  let asked = 0;
  return {
    run(count, done) {
      const last = asked + count;
      let left = count;
      return new Promise((resolve) => {
        const next = (ask: Ask): void => {
          if (asked >= last) return;
          const begun = performance.now();
          ask(questionOf(asked++), () => {
            done(performance.now() - begun);
            if (--left === 0) resolve();
            else next(ask);
          });
        };
        for (const ask of asks) next(ask);
      });
    },
    close() {
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** Sends requests on a connection in HTTP/1.1. */
export function askOn(socket: Socket): Ask {
  let answered = (): void => {};
  onAnswer(socket, () => answered());
  return (question, done) => {
    answered = done;
    socket.write(question);
  };
}

/** Open connections: more than are ever in use at half of the saturation rate. */
const rateConnections = 128;

export async function openRate({ port, perSecond }: RateJob): Promise<LoadSet> {
  const sockets = await dialAll(port, rateConnections);
  const free = sockets.map(askOn);
  const question = head(usualPath);
  return {
    async run(count, done) {
      const waiting: number[] = [];
      const { promise: over, resolve: finish } = Promise.withResolvers<void>();
      let left = count;
      const begin = (ask: Ask, due: number): void =>
        ask(question, () => {
          done(performance.now() - due);
          if (--left === 0) finish();
          const next = waiting.shift();
          if (next === undefined) free.push(ask);
          else begin(ask, next);
        });
      const started = performance.now();
      let issued = 0;
      const issue = (): void => {
        const now = performance.now();
        for (; issued < count; issued++) {
          const due = started + (issued * 1000) / perSecond;
          if (due > now) break;
          const ask = free.pop();
          if (ask === undefined) waiting.push(due);
          else begin(ask, due);
        }
        // Waits a millisecond instead of spinning: the proxies need the core more than the load does.
        if (issued < count) setTimeout(issue, 1);
      };
      issue();
      await over;
    },
    close() {
      for (const socket of sockets) socket.destroy();
    },
  };
}

// A masked text frame of 122 bytes: 128 with its header.
const message = Buffer.concat([Buffer.from([0x81, 0x80 | 122, 0, 0, 0, 0]), Buffer.alloc(122, 'm')]);

export async function openWebSocket({ port, inFlight }: WebSocketJob): Promise<LoadSet> {
  const sockets = await dialAll(port, inFlight);
  await Promise.all(sockets.map(upgrade));
  return askInTurn(sockets, sockets.map(echoOn), () => message);
}

async function upgrade(socket: Socket): Promise<void> {
  socket.write(
    head(
      '/v1/orders/ws',
      'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
    ),
  );
  const [answer] = (await once(socket, 'data')) as [Buffer];
  if (!answer.includes('101 Switching')) throw new Error(`no upgrade: ${answer.toString('latin1', 0, 80)}`);
}

/** Sends a message and waits until as many bytes have come back. */
function echoOn(socket: Socket): Ask {
  let left = 0;
  let answered = (): void => {};
  socket.on('data', (chunk: Buffer) => {
    left -= chunk.length;
    if (left === 0) answered();
  });
  return (question, done) => {
    left = question.length;
    answered = done;
    socket.write(question);
  };
}

async function dialAll(port: number, count: number): Promise<Socket[]> {
  return await Promise.all(
    Array.from({ length: count }, async () => {
      const socket = connect({ host: '127.0.0.1', port, noDelay: true });
      await once(socket, 'connect');
      return failLoudly(socket);
    }),
  );
}

/** A connection that fails or ends early ends the benchmark: the set would be smaller from then on. */
export function failLoudly<T extends Socket>(socket: T): T {
  socket.on('error', (error) => {
    throw error;
  });
  socket.on('end', () => {
    throw new Error('the proxy closed a connection of the load');
  });
  return socket;
}

/** Calls `done` at the end of each response. Anything but a 200 with a length ends the benchmark. */
export function onAnswer(socket: Socket, done: () => void): void {
  let left = 0;
  let text = '';
  socket.on('data', (chunk: Buffer) => {
    let at = 0;
    while (at < chunk.length) {
      if (left === 0) {
        text += chunk.toString('latin1', at);
        const end = text.indexOf('\r\n\r\n');
        if (end === -1) return;
        const length = /\r\ncontent-length: (\d+)/i.exec(text)?.[1];
        if (!text.startsWith('HTTP/1.1 200 ') || length === undefined)
          throw new Error(`unexpected response: ${text.slice(0, 200)}`);
        at = chunk.length - (text.length - end - 4);
        left = Number(length);
        text = '';
      }
      const taken = Math.min(left, chunk.length - at);
      left -= taken;
      at += taken;
      if (left === 0) done();
    }
  });
}
