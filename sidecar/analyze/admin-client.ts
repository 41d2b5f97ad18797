// Asking the admin port of a running sidecar or agent, for the commands that show what it says.

import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

const patienceMs = 5000;

/** A page of an admin address, `http://host:port` or `host:port`. @throws SallyportError `usage` for what is none. */
export function adminPage(admin: string, path: string): URL {
  // As sidecar.yaml takes it: a port alone is on this machine. To a URL it would be an address, 0.0.58.252 for 15100.
  const place = admin.replace(/^:?(?=\d{1,5}$)/, '127.0.0.1:');
  const base = URL.parse(/^https?:/.test(place) ? place : `http://${place}`);
  if (base?.protocol === 'http:') return new URL(path, base);
  throw new SallyportError('usage', `'${admin}' is not an admin address`, { hint: '--admin http://127.0.0.1:15000' });
}

/**
 * The answer of an admin page, with its body as JSON or undefined; `socketPath` where it is on a Unix socket.
 * @throws SallyportError `upstream_connect`.
 */
export async function askAdmin(url: URL, socketPath?: string): Promise<{ status: number; body: unknown }> {
  let status: number;
  let text: string;
  try {
    // Most commands ask nobody, and the client is larger than all the rest.
    const { Agent, request } = await import('undici');
    const options = { headersTimeout: patienceMs, bodyTimeout: patienceMs };
    const through = socketPath === undefined ? {} : { dispatcher: new Agent({ connect: { socketPath } }) };
    const answer = await request(url, { ...options, ...through });
    status = answer.statusCode;
    text = await answer.body.text();
  } catch (error) {
    throw new SallyportError('upstream_connect', `${url.origin} cannot be asked: ${reasonOf(error)}`, {
      cause: error,
      hint: 'is this the admin address of a sidecar (15000 by custom), and does it run on this machine?',
    });
  }
  try {
    return { status, body: JSON.parse(text) };
  } catch {
    return { status, body: undefined };
  }
}
