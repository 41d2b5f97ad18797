// The demo's HTTP clients: a plain one, as an app has it, and one that goes to the mutual-TLS port directly, as only
// somebody would who wants to get around the sidecar.

import { readFileSync } from 'node:fs';
import { Agent, type ClientRequest, request } from 'node:http';
import { request as requestTls } from 'node:https';
import type { Socket } from 'node:net';
import { join } from 'node:path';

export interface Answer {
  readonly status: number;
  readonly body: string;
}

export interface Question {
  readonly port: number;
  readonly method?: string;
  /** A path, or the whole URL where the port is used as a proxy. */
  readonly path?: string;
  readonly host?: string;
  readonly agent?: Agent;
}

const timeoutMs = 10_000;

/** Asks in plain HTTP on loopback. */
export function ask({ port, method = 'GET', path = '/orders', host, agent }: Question): Promise<Answer> {
  const headers = host === undefined ? {} : { host };
  return answerTo(
    request({ host: '127.0.0.1', port, method, path, headers, agent: agent ?? false, timeout: timeoutMs }),
  );
}

/** One that keeps its connections, for load. */
export function keepingAgent(): Agent {
  return new Agent({ keepAlive: true });
}

/** What an agent wrote, to show to a peer; `trust` is whom we believe. */
export interface Credential {
  readonly cert?: string;
  readonly key?: string;
  readonly trust: string;
}

/** Reads it anew each time: the agent replaces it. */
export function readCredential(directory: string): Credential {
  const read = (name: string): string => readFileSync(join(directory, name), 'utf8');
  return { cert: read('svid.pem'), key: read('svid.key'), trust: read('bundle.pem') };
}

/** An open connection of mutual TLS that may be used again and again. */
export interface Direct {
  ask(): Promise<Answer>;
  /** Resolves when the other side has closed it. */
  readonly closed: Promise<void>;
  end(): void;
}

/** Goes to `port` directly with `credential`, and believes only a server that proves to be `expected`. */
export async function goDirectly(port: number, expected: string, credential: Credential): Promise<Direct> {
  const { connect } = await import('node:tls');
  const { cert, key, trust } = credential;
  const socket = connect({
    ...{ host: '127.0.0.1', port, cert, key, ca: trust, minVersion: 'TLSv1.3', ALPNProtocols: ['http/1.1'] },
    // The name in a SPIFFE certificate is its URI; there is no DNS name to look for.
    checkServerIdentity: (_host, shown) =>
      shown.subjectaltname === `URI:${expected}` ? undefined : new Error(`this is ${shown.subjectaltname}`),
  });
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  const failed = new Promise<never>((_resolve, reject) => socket.once('error', reject));
  failed.catch(() => {});
  await Promise.race([new Promise((resolve) => socket.once('secureConnect', resolve)), failed]);
  const agent = new OneConnection(socket);
  return {
    ask: () => answerTo(requestTls({ host: '127.0.0.1', port, path: '/orders', agent, timeout: timeoutMs })),
    closed,
    end: () => socket.destroy(),
  };
}
