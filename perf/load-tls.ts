// Load of whole connections: handshakes, connections that stay and say nothing, and bytes.

import { connect } from 'node:net';
import { type ConnectionOptions, connect as connectTls, createSecureContext, type TLSSocket } from 'node:tls';
import { head, onAnswer, usualPath } from './load-http1.ts';

interface Shown {
  readonly certPem: string;
  readonly keyPem: string;
  readonly caPem: string;
}

/** `count` connections with one request each, `inFlight` at once. */
export interface HandshakeJob extends Shown {
  readonly kind: 'handshake';
  readonly port: number;
  readonly count: number;
  readonly inFlight: number;
}

/** `count` connections that stay open without a word until our standard input ends. */
export interface IdleJob extends Shown {
  readonly kind: 'idle';
  readonly port: number;
  readonly count: number;
}

/** `bytes` to a sink that answers at the end. */
export interface TcpJob {
  readonly kind: 'tcp';
  readonly port: number;
  readonly bytes: number;
}

function optionsOf({ certPem, keyPem, caPem }: Shown, port: number): ConnectionOptions {
  const secureContext = createSecureContext({ cert: certPem, key: keyPem, ca: caPem, minVersion: 'TLSv1.3' });
  return { host: '127.0.0.1', port, secureContext, checkServerIdentity: () => undefined };
}

export async function runHandshakes(job: HandshakeJob): Promise<undefined> {
  const options = optionsOf(job, job.port);
  const request = head(usualPath);
  let begun = 0;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const socket = connectTls(options, () => socket.write(request));
      socket.on('error', reject);
      onAnswer(socket, () => {
        socket.destroy();
        resolve();
      });
    });
  const worker = async (): Promise<void> => {
    while (begun++ < job.count) await one();
  };
  await Promise.all(Array.from({ length: job.inFlight }, worker));
}

export async function runIdle(job: IdleJob): Promise<undefined> {
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
  process.stderr.write('open\n');
  await new Promise((resolve) => process.stdin.once('end', resolve).resume());
  for (const socket of open) socket.destroy();
}

export function runTcp({ port, bytes }: TcpJob): Promise<undefined> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    const piece = Buffer.alloc(64 * 1024);
    let left = bytes;
    const push = (): void => {
      while (left > 0) {
        left -= piece.length;
        if (!socket.write(piece)) {
          socket.once('drain', push);
          return;
        }
      }
      socket.end();
    };
    socket.on('connect', push);
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the stream ended without the answer of the sink')));
    // The sink speaks only when it has everything.
    socket.on('data', () => {
      resolve(undefined);
      socket.destroy();
    });
  });
}
