// A connection to Redis: where it leads, with what secrets, and the library that makes it, which only gateways with shared
// limits hold. Secrets are read for each connection, so that they can change, and never reach a log or an error.

import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { asSallyportError, reasonOf, SallyportError } from '../../cert-agent/base/errors.ts';
import { readSecret } from '../../cert-agent/base/secret-file.ts';

/** From the first byte to a script that answered. */
export const connectMs = 2000;

export interface RedisPlace {
  /** `redis://host:port/db` or `rediss://`; no password. */
  readonly url: string;
  /** Read anew for each connection. */
  readonly passwordFile?: string | undefined;
  /** Whom to trust with rediss; the system's roots by default. Read anew for each connection. */
  readonly caFile?: string | undefined;
}

export type Client = Awaited<ReturnType<typeof createClient>>;

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
 * `warn` is told who else could read the password.
 * @throws SallyportError `config_invalid`, without anything that may be secret in it.
 */
export function parseTarget(
  { url, passwordFile, caFile }: RedisPlace,
  warn: (message: string) => void = () => {},
): Target {
  const fail = (why: string, hint: string): never => {
    throw new SallyportError('config_invalid', `the URL of Redis ${why}`, { hint });
  };
  const read = URL.parse(url) ?? fail('is no URL', 'write rediss://host:6379');
  const tls = read.protocol === 'rediss:';
  if (!tls && read.protocol !== 'redis:') fail(`begins with ${read.protocol}`, 'write rediss://host:6379');
  if (read.password !== '') fail('holds a password', 'put it into a file, and its name into passwordFile');
  if (read.hostname === '') fail('names no host', 'write rediss://host:6379');
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
      return { password, ca: readFile(caFile) };
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

/** A client of one connection that ends with it. */
export async function createClient({ host, port, database, username, tls, secrets }: Target) {
  const { password, ca } = secrets();
  // Only gateways with shared limits hold the library.
  const redis = await import('@redis/client');
  // A connection that is lost is not made again behind our back: until the script answers on it, it is none.
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

export function destroy(client: Client | undefined): void {
  try {
    client?.destroy();
  } catch {
    // It is closed already, which is an error to it.
  }
}

/**
 * A connection that can be used: `probe` has worked on it. A node of a Redis Cluster is none: it has a part of the keys, and would
 * send questions elsewhere (MOVED).
 * @throws SallyportError `config_invalid` for one of those, else Error; whoever called destroys the client.
 */
export async function openClient(client: Client, place: string, probe: (client: Client) => Promise<unknown>) {
  await client.connect();
  const cluster = new SallyportError(
    'config_invalid',
    `Redis at ${place} is a node of a Redis Cluster, which is not supported`,
    { hint: 'name one Redis, or one behind a name that fails over' },
  );
  const said = await client.sendCommand(['INFO', 'cluster']).catch((error: unknown) => {
    // Somebody who may not ask so (ACL) will be told by the first question.
    if (/^(?:NOPERM|ERR unknown)/.test(reasonOf(error))) return '';
    throw error;
  });
  if (/^cluster_enabled:1/m.test(String(said))) throw cluster;
  await probe(client).catch((error: unknown) => {
    throw /^(?:MOVED|CLUSTERDOWN|CROSSSLOT) /.test(reasonOf(error)) ? cluster : error;
  });
}
