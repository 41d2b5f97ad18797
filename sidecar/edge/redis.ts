// A connection to Redis: its address, its secrets, and the library, which only gateways with shared limits load.
// Secrets are read for each connection, so that they can change, and never reach a log or an error.

import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { asSallyportError, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { readRoots } from '../../cert-agent/base/roots.ts';
import { readSecret } from '../../cert-agent/base/secret-file.ts';

/** From the first byte to the answer of a script. */
export const connectMs = 2000;

/** A Redis, as gateway.yaml names it. */
export interface RedisPlace {
  /** `redis://host:port/db` or `rediss://`; no password. */
  readonly url: string;
  /** Read again for each connection. */
  readonly passwordFile?: string | undefined;
  /** The roots for rediss; by default the system's. Read again for each connection. */
  readonly caFile?: string | undefined;
}

/** The library's client. */
export type Client = Awaited<ReturnType<typeof createClient>>;

/** A checked Redis. */
export interface Target {
  /** For logs. */
  readonly place: string;
  readonly host: string;
  readonly port: number;
  readonly database: number;
  readonly username: string | undefined;
  readonly tls: boolean;
  /** @throws SallyportError `config_unreadable` or `secret_exposed` */
  secrets(): { readonly password: string | undefined; readonly ca: string | undefined };
}

/**
 * `warn` gets a message if others can read the password.
 * @throws SallyportError `config_invalid`, without anything that may be secret.
 */
export function parseTarget(
  { url, passwordFile, caFile }: RedisPlace,
  warn: (message: string) => void = () => {},
): Target {
  const fail = (why: string, hint: string): never => {
    throw new SallyportError('config_invalid', `the URL of Redis ${why}`, { hint });
  };
  const read = URL.parse(url) ?? fail('is not a URL', 'write rediss://host:6379');
  const tls = read.protocol === 'rediss:';
  if (!tls && read.protocol !== 'redis:') fail(`begins with ${read.protocol}`, 'write rediss://host:6379');
  if (read.password !== '') fail('holds a password', 'put it into a file, and its name into passwordFile');
  if (read.hostname === '') fail('has no host', 'write rediss://host:6379');
  if (!/^(?:\/\d{0,4})?$/.test(read.pathname) || read.search !== '' || read.hash !== '')
    fail('has more than host, port and the number of a database', 'write rediss://host:6379/0');
  const host = read.hostname.replace(/^\[|\]$/g, '');
  const isLocal = host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
  if (!tls && !isLocal && passwordFile !== undefined)
    fail(`would send a password to ${host} in plaintext`, 'write rediss://, or leave out the password');
  if (!tls && caFile !== undefined) fail('begins with redis:, which has no use for a caFile', 'write rediss://');
  const port = read.port === '' ? 6379 : Number(read.port);
  return {
    place: `${read.hostname}:${port}`,
    host,
    port,
    database: Number(read.pathname.slice(1) || 0),
    username: read.username === '' ? undefined : decodeURIComponent(read.username),
    tls,
    secrets() {
      const password = readFile(passwordFile, (file) => readSecret(file, warn))?.trim();
      return { password, ca: readFile(caFile, readRoots) };
    },
  };
}

function readFile(
  file: string | undefined,
  read = (from: string): string => readFileSync(from, 'utf8'),
): string | undefined {
  if (file === undefined) return undefined;
  try {
    return read(file);
  } catch (error) {
    throw asSallyportError(error, 'config_unreadable', `${file} cannot be read`);
  }
}

/** A client of one connection, which ends with it. */
export async function createClient({ host, port, database, username, tls, secrets }: Target) {
  const { password, ca } = secrets();
  // Only gateways with shared limits hold the library.
  const redis = await import('@redis/client');
  // The library must not reconnect on its own: until the script answers on a connection, it is not used.
  const base = { host, port, connectTimeout: connectMs, reconnectStrategy: false } as const;
  return redis.createClient({
    socket: tls
      ? {
          ...base,
          tls: true,
          minVersion: 'TLSv1.2',
          ...(isIP(host) === 0 ? { servername: host } : {}),
          ...(ca === undefined ? {} : { ca }),
        }
      : base,
    database,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    RESP: 2,
    disableOfflineQueue: true,
    disableClientInfo: true,
    maintNotifications: 'disabled',
  });
}

/** Closes a client in any state. */
export function destroy(client: Client | undefined): void {
  try {
    client?.destroy();
  } catch {
    // It is already closed, which is an error.
  }
}

/**
 * A usable connection: `probe` has worked on it. A node of a Redis Cluster is refused: it has only a part of the keys,
 * and redirects queries to others (MOVED).
 * @throws SallyportError `config_invalid` for such a node, else Error; the caller destroys the client.
 */
export async function openClient(client: Client, place: string, probe: (client: Client) => Promise<unknown>) {
  await client.connect();
  const cluster = new SallyportError(
    'config_invalid',
    `Redis at ${place} is a node of a Redis Cluster, which is not supported`,
    { hint: 'name one Redis, or one behind a name that fails over' },
  );
  const said = await client.sendCommand(['INFO', 'cluster']).catch((error: unknown) => {
    // A user without this permission (ACL) fails at the first query.
    if (/^(?:NOPERM|ERR unknown)/.test(reasonOf(error))) return '';
    throw error;
  });
  if (/^cluster_enabled:1/m.test(String(said))) throw cluster;
  await probe(client).catch((error: unknown) => {
    throw /^(?:MOVED|CLUSTERDOWN|CROSSSLOT) /.test(reasonOf(error)) ? cluster : error;
  });
}
