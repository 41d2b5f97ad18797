// Load in HTTP/1.1: as many requests as the other side takes, a fixed number a second, or messages on WebSockets.

import { connect, type Socket } from 'node:net';

/** `count` requests for `path`, `inFlight` at once, each on its own connection. */
export interface Http1Job {
  readonly kind: 'http';
  readonly port: number;
  readonly count: number;
  readonly inFlight: number;
  readonly path?: string;
}

/** `perSecond` requests for `seconds`, whether or not earlier ones are answered; latencies count from when they were due. */
export interface RateJob {
  readonly kind: 'rate';
  readonly port: number;
  readonly perSecond: number;
  readonly seconds: number;
}

/** `count` messages of 128 bytes, one at a time on each of `inFlight` WebSockets. */
export interface WebSocketJob {
  readonly kind: 'websocket';
  readonly port: number;
  readonly count: number;
  readonly inFlight: number;
}

export const head = (path: string, more = ''): Buffer =>
  Buffer.from(
    `GET ${path} HTTP/1.1\r\nHost: orders\r\nUser-Agent: perf/1\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n${more}\r\n`,
  );

export const usualPath = '/v1/orders/7?full=1';

export async function runHttp1({ port, count, inFlight, path = usualPath }: Http1Job): Promise<Float64Array> {
  const latencies = new Float64Array(count);
  const request = head(path);
  let sent = 0;
  let done = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port, noDelay: true });
      let begun = 0;
      const next = (): void => {
        if (sent >= count) {
          socket.destroy();
          resolve();
          return;
        }
        sent++;
        begun = performance.now();
        socket.write(request);
      };
      socket.on('connect', next);
      socket.on('error', reject);
      onAnswer(socket, () => {
        latencies[done++] = performance.now() - begun;
        next();
      });
    });
  await Promise.all(Array.from({ length: inFlight }, one));
  return latencies;
}

/** How many connections stand ready for what is due: more than ever wait at half of what saturates. */
const rateConnections = 128;

export async function runRate({ port, perSecond, seconds }: RateJob): Promise<Float64Array> {
  const count = Math.floor(perSecond * seconds);
  const latencies = new Float64Array(count);
  const request = head(usualPath);
  const free: ((due: number) => void)[] = [];
  const waiting: number[] = [];
  let done = 0;
  let finish: () => void = () => {};
  const over = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const sockets = await Promise.all(
    Array.from(
      { length: rateConnections },
      () =>
        new Promise<Socket>((resolve, reject) => {
          const socket = connect({ host: '127.0.0.1', port, noDelay: true }, () => resolve(socket));
          let due = 0;
          const ask = (at: number): void => {
            due = at;
            socket.write(request);
          };
          socket.on('error', reject);
          onAnswer(socket, () => {
            latencies[done++] = performance.now() - due;
            if (done === count) return finish();
            const next = waiting.shift();
            if (next === undefined) free.push(ask);
            else ask(next);
          });
          free.push(ask);
        }),
    ),
  );
  const started = performance.now();
  let issued = 0;
  const issue = (): void => {
    const now = performance.now();
    for (; issued < count; issued++) {
      const due = started + (issued * 1000) / perSecond;
      if (due > now) break;
      const ask = free.pop();
      if (ask === undefined) waiting.push(due);
      else ask(due);
    }
    // A millisecond is waited, not spun through: the proxies need the core more than we do.
    if (issued < count) setTimeout(issue, 1);
  };
  issue();
  await over;
  for (const socket of sockets) socket.destroy();
  return latencies;
}

export async function runWebSocket({ port, count, inFlight }: WebSocketJob): Promise<Float64Array> {
  const latencies = new Float64Array(count);
  const request = head(
    '/v1/orders/ws',
    'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
  );
  // A masked text frame of 122 bytes: 128 with its head.
  const message = Buffer.concat([Buffer.from([0x81, 0x80 | 122, 0, 0, 0, 0]), Buffer.alloc(122, 'm')]);
  let sent = 0;
  let done = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port, noDelay: true }, () => socket.write(request));
      let open = false;
      let left = 0;
      let begun = 0;
      const next = (): void => {
        if (sent >= count) {
          socket.destroy();
          resolve();
          return;
        }
        sent++;
        left = message.length;
        begun = performance.now();
        socket.write(message);
      };
      socket.on('error', reject);
      socket.on('data', (chunk: Buffer) => {
        if (!open) {
          if (!chunk.includes('101 Switching'))
            return reject(new Error(`no upgrade: ${chunk.toString('latin1', 0, 80)}`));
          open = true;
          return next();
        }
        left -= chunk.length;
        if (left > 0) return;
        latencies[done++] = performance.now() - begun;
        next();
      });
    });
  await Promise.all(Array.from({ length: inFlight }, one));
  return latencies;
}

/** Calls `done` at the end of each answer; anything but a 200 with a length ends the benchmark. */
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
          throw new Error(`unexpected answer: ${text.slice(0, 200)}`);
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
