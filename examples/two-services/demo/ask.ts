// The demo's HTTP clients: a plaintext one, as an app has it; the same over TLS, as a user has it; and one that
// connects to the mutual-TLS port directly, as only an attacker would who wants to get around the sidecar.

import { readFileSync } from 'node:fs';
import { type Agent, type ClientRequest, type IncomingHttpHeaders, type OutgoingHttpHeaders, request } from 'node:http';
import { request as requestTls, Agent as TlsAgent } from 'node:https';
import type { Socket } from 'node:net';
import { join } from 'node:path';

/** The SPIFFE ID of a workload of the demo. */
export function idOf(name: string): string {
  return `spiffe://demo.test/ns/shop/sa/${name}`;
}

export interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

export interface Question {
  /** Default: this machine. */
  readonly address?: string;
  readonly port: number;
  readonly method?: string;
  /** A path, or the whole URL if the port is used as a proxy. */
  readonly path?: string;
  readonly host?: string;
  /** The user's token, if the client is a user. */
  readonly token?: string;
  /** JSON. */
  readonly body?: string;
  /** PEM. If set, the request goes over TLS, to a server that proves to be `serverName` under this authority. */
  readonly authority?: string;
  readonly serverName?: string;
  /** Keeps connections; without one each request has its own. */
  readonly agent?: Agent;
}

const timeoutMs = 10_000;

/** Sends a request in plain HTTP, or over TLS. */
export function ask({
  address = '127.0.0.1',
  port,
  method = 'GET',
  path = '/orders',
  host,
  token,
  body,
  authority,
  serverName = 'localhost',
  agent,
}: Question): Promise<Answer> {
  const headers = {
    ...(host === undefined ? {} : { host }),
    ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
    ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }),
  };
  const options = { host: address, port, method, path, headers, timeout: timeoutMs, agent: agent ?? false };
  if (authority === undefined) return answerTo(request(options), body);
  return answerTo(requestTls({ ...options, agent: false, ca: authority, servername: serverName }), body);
}

/** The certificate and key to present, and the authorities to trust; all PEM. */
export interface Credential {
  readonly cert?: string;
  readonly key?: string;
  readonly trust: string;
}

/** What the agent wrote to `directory`; read each time, since the agent replaces it. */
export function readCredential(directory: string): Credential {
  const read = (name: string): string => readFileSync(join(directory, name), 'utf8');
  return { cert: read('svid.pem'), key: read('svid.key'), trust: read('bundle.pem') };
}

/** A client of a mutual-TLS port that keeps one connection. */
export interface Direct {
  ask(headers?: OutgoingHttpHeaders): Promise<Answer>;
  /** Resolves when its connection has been closed. */
  readonly closed: Promise<void>;
  end(): void;
}

/** A client for `address` with this credential, which accepts only a server that proves to be `expected`. */
export function goDirectly(
  address: { readonly host: string; readonly port: number },
  expected: string,
  { cert, key, trust }: Credential,
): Direct {
  const agent = new TlsAgent({
    ...{ keepAlive: true, cert, key, ca: trust, minVersion: 'TLSv1.3' },
    // The name in a SPIFFE certificate is its URI; there is no DNS name to look for.
    checkServerIdentity: (_host, { subjectaltname }) =>
      subjectaltname === `URI:${expected}` ? undefined : new Error(`the server is ${subjectaltname}`),
  });
  const { promise: closed, resolve: close } = Promise.withResolvers<void>();
  const known = new WeakSet<Socket>();
  return {
    ask(headers = {}) {
      const asked = requestTls({ ...address, path: '/orders', headers, agent, timeout: timeoutMs });
      asked.once('socket', (socket) => {
        if (!known.has(socket)) socket.once('close', close);
        known.add(socket);
      });
      return answerTo(asked);
    },
    closed,
    end: () => agent.destroy(),
  };
}

function answerTo(asked: ClientRequest, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    asked.once('error', reject);
    asked.once('timeout', () => asked.destroy(new Error(`no answer in ${timeoutMs / 1000} s`)));
    asked.once('response', (response) => {
      const { statusCode: status = 0, headers } = response;
      response.toArray().then((chunks) => resolve({ status, headers, body: chunks.join('') }), reject);
    });
    asked.end(body);
  });
}
