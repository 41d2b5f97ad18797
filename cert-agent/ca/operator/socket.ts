// The client of the operator's socket, for commands: the other end of pages.ts. It imports very little, since a person
// waits for it.

import { type Code, codes, errnoOf, reasonOf, SallyportError } from '../../base/errors.ts';
import { request as httpRequest } from '../../base/http.ts';
import type { Acknowledged } from '../acknowledged.ts';
import type { ConnectedAgent } from '../agents.ts';
import type { Allowance, Revocation } from '../revocation/revoke.ts';
import type { RotationStatus } from '../rotation/rotation.ts';
import type { Denial, DnsPattern } from '../store/store.ts';
import type { DnsAllowed, DnsDisallowed } from './dns.ts';
import type { ListedCertificate, ListedToken, NewToken, Operator, ShownCertificate } from './operator.ts';
import { connectRecords } from './records-socket.ts';

/**
 * The operator of the CA that listens on `path`. Each call opens a connection.
 * Calls throw the CA's refusal, or `ca_unreachable` when no CA responds.
 */
export function connectOperator(path: string): Operator {
  return {
    createToken: async (id, ttlMs, dns) => (await ask(path, 'POST', '/v1/tokens', { id, ttlMs, dns })) as NewToken,
    listTokens: async () => (await ask(path, 'GET', '/v1/tokens')) as ListedToken[],
    removeTokens: async (choice) => (await ask(path, 'POST', '/v1/tokens/remove', choice)) as ListedToken[],
    async list({ all, expiringMs, after }) {
      const query = new URLSearchParams();
      if (all === true) query.set('all', 'true');
      if (expiringMs !== undefined) query.set('expiringMs', String(expiringMs));
      if (after !== undefined) query.set('after', `${after.notAfter}:${after.serial}`);
      return (await ask(path, 'GET', `/v1/certificates?${query}`)) as ListedCertificate[];
    },
    show: async (serial) =>
      (await ask(path, 'GET', `/v1/certificates/${encodeURIComponent(serial)}`)) as ShownCertificate,
    revoke: async (target, reason, options) =>
      (await ask(path, 'POST', '/v1/revoke', { target, reason, ...options })) as Revocation & {
        acknowledged?: Acknowledged;
      },
    allow: async (id) => (await ask(path, 'POST', '/v1/allow', { id })) as Allowance,
    agents: async () => (await ask(path, 'GET', '/v1/agents')) as ConnectedAgent[],
    rotationStatus: async () => (await ask(path, 'GET', '/v1/rotation')) as RotationStatus,
    rotate: async (request) => (await ask(path, 'POST', '/v1/rotation', request)) as RotationStatus,
    dns: {
      allow: async (pattern) => (await ask(path, 'POST', '/v1/dns/allow', { pattern })) as DnsAllowed,
      disallow: async (pattern) => (await ask(path, 'POST', '/v1/dns/disallow', { pattern })) as DnsDisallowed,
      list: async () => (await ask(path, 'GET', '/v1/dns')) as DnsPattern[],
    },
    records: connectRecords((...request) => ask(path, ...request)),
    listDenials: async () => (await ask(path, 'GET', '/v1/denials')) as Denial[],
  };
}

/** True if a process listens on the socket. */
export async function answersAt(path: string): Promise<boolean> {
  try {
    await exchange(path, 'GET', '/');
    return true;
  } catch {
    return false;
  }
}

async function ask(
  socketPath: string,
  method: string,
  path: string,
  body?: object,
  timeoutMs?: number,
): Promise<unknown> {
  let answer: { status: number; text: string };
  try {
    answer = await exchange(socketPath, method, path, body, timeoutMs);
  } catch (error) {
    throw new SallyportError(
      'ca_unreachable',
      `no CA responds on ${socketPath}: ${errnoOf(error) ?? reasonOf(error)}`,
      {
        hint:
          errnoOf(error) === 'EACCES'
            ? 'it is open to the user who runs the CA: run this command as that user'
            : 'is it running? sallyport ca serve --dir D opens D/ca.sock; --socket sets another path',
      },
    );
  }
  const value: unknown = JSON.parse(answer.text);
  if (answer.status < 400) return value;
  throw refusalOf(value);
}

function refusalOf(value: unknown): SallyportError {
  const { code, message, hint } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>;
  if (typeof code !== 'string' || typeof message !== 'string')
    return new SallyportError('internal', 'the CA refused with a response of unknown form');
  return new SallyportError(isCode(code) ? code : 'internal', message, typeof hint === 'string' ? { hint } : {});
}

function isCode(text: string): text is Code {
  return Object.hasOwn(codes, text);
}

function exchange(
  socketPath: string,
  method: string,
  path: string,
  body?: object,
  timeout = 30_000,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const request = httpRequest({ socketPath, method, path, headers, agent: false, timeout }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
      });
      response.once('end', () => resolve({ status: response.statusCode ?? 500, text }));
      response.once('error', reject);
    });
    request.once('error', reject);
    request.once('timeout', () => request.destroy(new Error(`no response within ${timeout / 1000} s`)));
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}
