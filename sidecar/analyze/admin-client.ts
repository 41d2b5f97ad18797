// A client of the admin port of a running sidecar or agent, for the commands that show its state.

import { formatAddress } from '../../cert-agent/base/address.ts';
import { reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';

const patienceMs = 5000;

/** Where an admin port is: its address, or a settings file that names it and has precedence. */
export interface AdminPlace {
  readonly admin: string;
  readonly config?: string;
}

/** An admin port to ask. */
export interface Admin {
  page(path: string): URL;
  /** For a port on a Unix socket. */
  readonly socketPath: string | undefined;
}

/**
 * The admin port at a place. Of a settings file only `admin` is read: a process goes on when its file becomes invalid.
 * @throws SallyportError `usage`, `config_unreadable`, or `config_invalid` if the file names none.
 */
export async function findAdmin({ admin, config }: AdminPlace): Promise<Admin> {
  if (config === undefined) {
    adminPage(admin, '/');
    return { page: (path) => adminPage(admin, path), socketPath: undefined };
  }
  const { adminIn } = await import('../config/admin-in.ts');
  const found = adminIn(config);
  if ('path' in found) return { page: (path) => new URL(path, 'http://localhost'), socketPath: found.path };
  return { page: (path) => adminPage(formatAddress(found), path), socketPath: undefined };
}

/** The URL of an admin page; the address is `http://host:port` or `host:port`. @throws SallyportError `usage`. */
export function adminPage(admin: string, path: string): URL {
  // Like in sidecar.yaml, a port alone means this machine. As a URL it would be an address: 0.0.58.252 for 15100.
  const place = admin.replace(/^:?(?=\d{1,5}$)/, '127.0.0.1:');
  const base = URL.parse(/^https?:/.test(place) ? place : `http://${place}`);
  if (base?.protocol === 'http:') return new URL(path, base);
  throw new SallyportError('usage', `'${admin}' is not an admin address`, { hint: '--admin http://127.0.0.1:15000' });
}

/**
 * Requests an admin page; the body as JSON, or undefined. `socketPath` is for a Unix socket.
 * @throws SallyportError `upstream_connect`.
 */
export async function askAdmin(url: URL, socketPath?: string): Promise<{ status: number; body: unknown }> {
  let status: number;
  let text: string;
  try {
    // Most commands do not need this client, and it is larger than all the rest.
    const { Agent, request } = await import('undici');
    const options = { headersTimeout: patienceMs, bodyTimeout: patienceMs };
    const through = socketPath === undefined ? {} : { dispatcher: new Agent({ connect: { socketPath } }) };
    const answer = await request(url, { ...options, ...through });
    status = answer.statusCode;
    text = await answer.body.text();
  } catch (error) {
    const place = socketPath === undefined ? url.origin : `unix:${socketPath}`;
    throw new SallyportError('upstream_connect', `cannot reach ${place}: ${reasonOf(error)}`, {
      cause: error,
      hint:
        socketPath === undefined
          ? 'is this the admin address of a sidecar (usually port 15000), and does it run on this machine?'
          : 'does the process with this admin socket run, and may you open it?',
    });
  }
  try {
    return { status, body: JSON.parse(text) };
  } catch {
    return { status, body: undefined };
  }
}

/**
 * Requests an admin page that is a list.
 * @throws SallyportError `upstream_connect`, also for a server that is no admin port.
 */
export async function askAdminList(page: URL, socketPath?: string): Promise<readonly unknown[]> {
  const { status, body } = await askAdmin(page, socketPath);
  if (status === 200 && Array.isArray(body)) return body;
  throw new SallyportError(
    'upstream_connect',
    `${page.origin} is no admin address: ${page.pathname} responded ${status}`,
    {
      hint: 'is this the admin address of a sidecar or a gateway (usually port 15000)?',
    },
  );
}
