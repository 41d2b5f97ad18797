// API keys. Keys are stored as SHA-256 hashes and looked up by the hash of the presented key, so the time of a
// comparison does not reveal how much of a guess was right. Keys are long and random, so the hash needs no salt.

import { createHash } from 'node:crypto';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import type { Exchange } from '../../exchange/exchange.ts';
import { isSafeField } from '../../exchange/message.ts';
import { isSamePlace, takeOutAll } from '../../exchange/token-places.ts';
import { type Found, findCredentials, refuseCaller, tellApp } from '../credentials.ts';
import type { ApiKeyPlan } from './schema.ts';

/** A longer key is unknown, and is not hashed. */
const maxKeyLength = 1024;
/** A shorter key can be guessed, or found from its hash. */
const minKeyLength = 16;

/** A key as a Secret holds it: `sha256:` and 64 hexadecimal digits. */
export function hashApiKey(key: string): string {
  return `sha256:${digestOf(key)}`;
}

function digestOf(key: string): string {
  return createHash('sha256').update(key, 'utf8').digest('hex');
}

/** Clients by the hash of their key, and warnings for the operator. */
export interface ApiKeys {
  readonly clients: ReadonlyMap<string, string>;
  readonly warnings: readonly string[];
}

/** Reads Secrets in order, by name: client to key, or to the key's hash. @throws SallyportError `config_invalid`. */
export function readApiKeys(secrets: readonly (readonly [string, Readonly<Record<string, string>>])[]): ApiKeys {
  const clients = new Map<string, string>();
  const known = new Set<string>();
  const warnings: string[] = [];
  for (const [secret, data] of secrets) {
    for (const [client, text] of Object.entries(data)) {
      // A key in a file ends with its line.
      const value = text.replace(/\r?\n$/, '');
      if (known.has(client)) {
        warnings.push(`the client '${client}' is in more than one Secret: its entry in Secret '${secret}' is ignored`);
        continue;
      }
      known.add(client);
      if (!isSafeField('x-client', client) || client === '')
        throw new SallyportError(
          'config_invalid',
          `Secret '${secret}' names a client that is not a valid header value`,
        );
      const hash = readHash(value, client, secret);
      if (!value.startsWith('sha256:'))
        warnings.push(
          `the key of client '${client}' is in plaintext in Secret '${secret}': write its hash, sha256:...`,
        );
      const other = clients.get(hash);
      if (other !== undefined)
        throw new SallyportError('config_invalid', `the clients '${other}' and '${client}' have the same API key`);
      clients.set(hash, client);
    }
  }
  if (clients.size === 0)
    throw new SallyportError(
      'config_invalid',
      `there is no API key in ${secrets.map(([name]) => `Secret '${name}'`).join(', ')}`,
    );
  return { clients, warnings };
}

function readHash(value: string, client: string, secret: string): string {
  if (value.startsWith('sha256:')) {
    const hash = value.slice('sha256:'.length).toLowerCase();
    if (/^[0-9a-f]{64}$/.test(hash)) return hash;
    throw new SallyportError(
      'config_invalid',
      `the hash of client '${client}' in Secret '${secret}' is not 64 hexadecimal digits`,
    );
  }
  if (value.length < minKeyLength || value.length > maxKeyLength)
    throw new SallyportError(
      'config_invalid',
      `the key of client '${client}' in Secret '${secret}' has ${value.length} characters: it must have ${minKeyLength} to ${maxKeyLength}`,
    );
  return digestOf(value);
}

/** As in Envoy: in `Authorization` the key may be the whole value, or a bearer token. */
function keyIn({ value, place }: Found): string {
  return place.kind === 'header' && place.name === 'authorization' ? value.replace(/^Bearer +/i, '') : value;
}

/** Authenticates the client by its key. @throws SallyportError `api_key_missing`, `api_key_unknown`. */
export function compileApiKeys(policy: ApiKeyPlan, { clients }: ApiKeys): (exchange: Exchange) => void {
  return function knowClient(exchange) {
    const found = findCredentials(exchange, policy.extractFrom);
    const [first] = found;
    if (first === undefined)
      throw refuseCaller(exchange, 'api_key_missing', 'Client authentication failed.', 'the request has no API key');
    const key = keyIn(first);
    // Two keys at one place are two, even if they are equal: an app might join them. Equal keys at two places are one.
    const isOne = found.every(
      (one, at) => keyIn(one) === key && found.findIndex(({ place }) => isSamePlace(place, one.place)) === at,
    );
    const client = !isOne || key.length > maxKeyLength ? undefined : clients.get(digestOf(key));
    // A key in the query, valid or not, must not reach the access log.
    if (policy.sanitize || client === undefined)
      takeOutAll(
        exchange,
        found.map(({ place }) => place),
      );
    if (!isOne)
      throw refuseCaller(exchange, 'api_key_unknown', 'Client authentication failed.', 'the request has two API keys');
    if (client === undefined)
      throw refuseCaller(exchange, 'api_key_unknown', 'Client authentication failed.', 'the API key is unknown');
    exchange.clientId = client;
    exchange.authMethod = 'apiKey';
    if (policy.forwardClientIdHeader !== undefined) tellApp(exchange, policy.forwardClientIdHeader, client);
  };
}
