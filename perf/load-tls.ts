// Load of whole connections: handshakes, idle connections, and bytes.

import { once } from 'node:events';
import { connect } from 'node:net';
import { type ConnectionOptions, connect as connectTls, createSecureContext, type TLSSocket } from 'node:tls';
import type { LoadSet } from './load.ts';
import { failLoudly, head, onAnswer, usualPath } from './load-http1.ts';

interface Shown {
  readonly certPem: string;
  readonly keyPem: string;
  readonly caPem: string;
}

/** Connections with one request each, `inFlight` at once. */
export interface HandshakeJob extends Shown {
  readonly kind: 'handshake';
  readonly port: number;
  readonly inFlight: number;
}

/** `count` idle connections. */
export interface IdleJob extends Shown {
  readonly kind: 'idle';
  readonly port: number;
  readonly count: number;
}

/** Pieces of `tcpPieceBytes` on one connection to a sink that acknowledges each. */
export interface TcpJob {
  readonly kind: 'tcp';
  readonly port: number;
}

/** The bytes for which the app's sink sends one byte back. */
export const tcpPieceBytes = 2 ** 20;

function optionsOf({ certPem, keyPem, caPem }: Shown, port: number): ConnectionOptions {
  const secureContext = createSecureContext({ cert: certPem, key: keyPem, ca: caPem, minVersion: 'TLSv1.3' });
  return { host: '127.0.0.1', port, secureContext, checkServerIdentity: () => undefined };
}

/** Nothing is open between two runs, since opening is what is measured. */
export async function openHandshakes(job: HandshakeJob): Promise<LoadSet> {
  const options = optionsOf(job, job.port);
  const request = head(usualPath);
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connectTls(options, () => socket.write(request));
      socket.on('error', reject);
      onAnswer(socket, () => {
        socket.destroy();
        resolve();
      });
    });
  return {
    async run(count, done) {
      let begun = 0;
      const worker = async (): Promise<void> => {
        while (begun++ < count) {
          const started = performance.now();
          await one();
          done(performance.now() - started);
        }
      };
      await Promise.all(Array.from({ length: job.inFlight }, worker));
    },
    close() {},
  };
}

export async function openIdle(job: IdleJob): Promise<LoadSet> {
  const options = optionsOf(job, job.port);
  const open: TLSSocket[] = [];
  const worker = async (): Promise<void> => {
    while (open.length < job.count)
      await new Promise<void>((resolve, reject) => {
        const socket = connectTls(options, resolve);
        open.push(socket);
        socket.on('error', reject);
      });
  };
  await Promise.all(Array.from({ length: 16 }, worker));
  return {
    async run() {},
    close() {
      for (const socket of open) socket.destroy();
    },
  };
}

export async function openTcp({ port }: TcpJob): Promise<LoadSet> {
  const socket = failLoudly(connect({ host: '127.0.0.1', port }));
  await once(socket, 'connect');
  const chunk = Buffer.alloc(64 * 1024);
  let acknowledged = (): void => {};
  let awaited = 0;
  socket.on('data', ({ length }: Buffer) => {
    awaited -= length;
    if (awaited === 0) acknowledged();
  });
  return {
    run(count) {
      awaited = count;
      let left = count * tcpPieceBytes;
      const push = (): void => {
        while (left > 0) {
          left -= chunk.length;
          if (!socket.write(chunk)) {
            socket.once('drain', push);
            return;
          }
        }
      };
      return new Promise((resolve) => {
        acknowledged = resolve;
        push();
      });
    },
    close() {
      socket.destroy();
    },
  };
}
