// The operator's commands between processes: JSON over the unix socket of the running CA, mode 0600 in a directory of
// mode 0700. Whoever may open it is the operator; there is no other login.

import { request as httpRequest } from 'node:http';
import { z } from 'zod';
import type { Page } from '../base/admin.ts';
import { type Code, codes, errnoOf, reasonOf, SallyportError } from '../base/errors.ts';
import type { ListedCertificate, NewToken, Operator, ShownCertificate } from './operator.ts';
import type { Revocation } from './revoke.ts';

const tokenSchema = z.strictObject({ id: z.string(), ttlMs: z.number() });
const revokeSchema = z.strictObject({ target: z.string(), reason: z.string() });
const allowSchema = z.strictObject({ id: z.string() });

/** The operator as pages of an admin server on the socket. */
export function operatorPages(operator: Operator): readonly Page[] {
  return [
    {
      method: 'POST',
      path: '/v1/tokens',
      sentence: 'makes a join token: { id, ttlMs }',
      async answer({ body }) {
        const { id, ttlMs } = parse(tokenSchema, body);
        return { body: await operator.createToken(id, ttlMs) };
      },
    },
    {
      method: 'GET',
      path: '/v1/certificates',
      sentence: 'lists certificates: ?all=true, ?expiringMs=N',
      async answer({ url }) {
        const expiring = url.searchParams.get('expiringMs');
        const filter = expiring === null ? {} : { expiringMs: parse(z.coerce.number().nonnegative(), expiring) };
        return { body: await operator.list({ all: url.searchParams.get('all') === 'true', ...filter }) };
      },
    },
    {
      method: 'GET',
      path: '/v1/certificates/*',
      sentence: 'one certificate, by its serial',
      answer: async ({ url }) => ({ body: await operator.show(decodeURIComponent(url.pathname.split('/')[3] ?? '')) }),
    },
    {
      method: 'POST',
      path: '/v1/revoke',
      sentence: 'denies a serial or a SPIFFE ID: { target, reason }',
      async answer({ body }) {
        const { target, reason } = parse(revokeSchema, body);
        return { body: await operator.revoke(target, reason) };
      },
    },
    {
      method: 'POST',
      path: '/v1/allow',
      sentence: 'takes a SPIFFE ID off the deny-list: { id }',
      answer: async ({ body }) => ({ body: { changed: await operator.allow(parse(allowSchema, body).id) } }),
    },
  ];
}

/**
 * The operator of the CA that listens on `path`. Each call connects anew.
 * Calls throw what the CA refused with, or `ca_unreachable` when nobody answers.
 */
export function connectOperator(path: string): Operator {
  return {
    createToken: async (id, ttlMs) => (await ask(path, 'POST', '/v1/tokens', { id, ttlMs })) as NewToken,
    async list({ all, expiringMs }) {
      const query = new URLSearchParams();
      if (all === true) query.set('all', 'true');
      if (expiringMs !== undefined) query.set('expiringMs', String(expiringMs));
      return (await ask(path, 'GET', `/v1/certificates?${query}`)) as ListedCertificate[];
    },
    show: async (serial) =>
      (await ask(path, 'GET', `/v1/certificates/${encodeURIComponent(serial)}`)) as ShownCertificate,
    revoke: async (target, reason) => (await ask(path, 'POST', '/v1/revoke', { target, reason })) as Revocation,
    allow: async (id) => ((await ask(path, 'POST', '/v1/allow', { id })) as { changed: boolean }).changed,
  };
}

/** True when something listens on the socket. */
export async function answersAt(path: string): Promise<boolean> {
  try {
    await exchange(path, 'GET', '/');
    return true;
  } catch {
    return false;
  }
}

async function ask(socketPath: string, method: string, path: string, body?: object): Promise<unknown> {
  let answer: { status: number; text: string };
  try {
    answer = await exchange(socketPath, method, path, body);
  } catch (error) {
    throw new SallyportError('ca_unreachable', `no CA answers on ${socketPath}: ${errnoOf(error) ?? reasonOf(error)}`, {
      hint: 'is it running? sallyport ca serve --dir D opens D/ca.sock; --socket names another place',
    });
  }
  const value: unknown = JSON.parse(answer.text);
  if (answer.status < 400) return value;
  throw refusalOf(value);
}

function refusalOf(value: unknown): SallyportError {
  const { code, message, hint } = z
    .object({ code: z.string(), message: z.string(), hint: z.string().optional() })
    .parse(value);
  return new SallyportError(isCode(code) ? code : 'internal', message, { hint });
}

function isCode(text: string): text is Code {
  return Object.hasOwn(codes, text);
}

function exchange(
  socketPath: string,
  method: string,
  path: string,
  body?: object,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const headers = body === undefined ? {} : { 'content-type': 'application/json' };
    const request = httpRequest({ socketPath, method, path, headers, agent: false, timeout: 30_000 }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        text += part;
      });
      response.once('end', () => resolve({ status: response.statusCode ?? 500, text }));
      response.once('error', reject);
    });
    request.once('error', reject);
    request.once('timeout', () => request.destroy(new Error('no answer within 30 s')));
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

function parse<S extends z.ZodType>(schema: S, value: unknown): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new SallyportError('body_invalid', result.error.issues[0]?.message ?? 'the body is not valid');
}
